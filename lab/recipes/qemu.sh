# A root that holds a QEMU new enough for igb's virtual functions.
cp -a "$BASE/root" "$TARGET/root"
lend "$TARGET/root"
install_packages "$TARGET/root" $PACKAGES
# QEMU before 10.0.5 maps the BARs of igb's VFs as 32 bit: their registers read 0.
have=$(chroot "$TARGET/root" dpkg-query -W -f '${Version}' qemu-system-x86)
dpkg --compare-versions "$have" ge "1:$QEMU_AT_LEAST" || { echo "QEMU $have is older than $QEMU_AT_LEAST"; exit 1; }
forget "$TARGET/root"
