# The guest's disk: root, virtual environment and test drivers in one sparse ext4 file. It is only ever
# opened under a throw-away overlay, so it needs no journal.
root=$GUEST/root
kernel=$(ls "$root/lib/modules")
modules=$root/lib/modules/$kernel
[ -d "$MODULES/$kernel" ] || { echo "the guest's kernel is $kernel, $MODULES is for $(ls "$MODULES"): remove it"; exit 1; }
mount --bind "$VENV/venv" "$root/opt/venv"
mount --bind "$MODULES/$kernel" "$modules/updates"
# The guest's root stays as it is: its modules' new index is laid over the old one for the copy.
mount -t tmpfs tmpfs "$root/tmp"
mkdir -p "$root/tmp/lib/modules/$kernel"
chroot "$root" depmod -o /tmp "$kernel"
for index in "$root/tmp/lib/modules/$kernel"/*; do mount --bind "$index" "$modules/${index##*/}"; done
umount -l "$root/tmp"
mke2fs -q -t ext4 -O ^has_journal -m 0 -L lab -d "$root" "$TARGET/disk.img" "$SIZE"
