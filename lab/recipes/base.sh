# A minimal Debian that the QEMU root and the guest root both start from.
debootstrap --variant=minbase "$SUITE" "$TARGET/root" "$MIRROR"
# Neither root is read by people: leave out what only they would read.
cat > "$TARGET/root/etc/dpkg/dpkg.cfg.d/lab" <<'EOF'
path-exclude=/usr/share/doc/*
path-exclude=/usr/share/man/*
path-exclude=/usr/share/locale/*
EOF
