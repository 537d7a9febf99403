# The guest's root: stock kernel, network tools, DPDK, and plain (not .xz) files of the modules we load.
cp -a "$BASE/root" "$TARGET/root"
lend "$TARGET/root"
install_packages "$TARGET/root" $PACKAGES
root=$TARGET/root
kernel=$(ls "$root/lib/modules")
# Unpacking .ko.xz under TCG costs more than loading the module.
modules=$(modprobe -d "$root" -S "$kernel" --show-depends -a $MODULES)
echo "$modules" | sed -n 's/^insmod \([^ ]*\.xz\).*/\1/p' | sort -u | xargs -r xz -d
depmod -b "$root" "$kernel"
# Where the disk's recipe shows the test drivers.
mkdir -p "$root/work/wirespeed" "$root/out" "$root/dev/hugepages" "$root/lib/modules/$kernel/updates"
forget "$root"
