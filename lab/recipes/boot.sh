# Kernel and initrd. The initrd carries the lab's own guest scripts, so a change to them rebuilds only this.
kernel=$(ls "$GUEST/root/lib/modules")
python3 "$LAB/vmlinux.py" "$GUEST/root/boot/vmlinuz-$kernel" "$TARGET/vmlinux"
tree=$TARGET/initrd
mkdir -p "$tree/bin" "$tree/modules" "$tree/lab" "$tree/proc" "$tree/sys" "$tree/dev" "$tree/newroot"
cp /bin/busybox "$tree/bin/"
# In the order of their dependencies; the guest recipe has unpacked them.
modprobe -d "$GUEST/root" -S "$kernel" --show-depends -a $MODULES | sed -n 's/^insmod \([^ ]*\).*/\1/p' | awk '!seen[$0]++' |
    while read -r file; do cp "$file" "$tree/modules/"; basename "$file" >> "$tree/modules/order"; done
install -m 755 "$LAB/guest/init" "$tree/init"
install -m 755 "$LAB/guest/setup" "$LAB/guest/agent.py" "$tree/lab/"
(cd "$tree" && find . -print0 | cpio --null --quiet -o -H newc) > "$TARGET/initrd.cpio"
rm -r "$tree"
