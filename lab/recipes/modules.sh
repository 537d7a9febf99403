# Test drivers of exactly the guest's kernel, from its own source, and the lab's own, against its headers. Headers and
# source are unpacked, not installed: the headers' package wants the whole kernel beside it.
kernel=$(ls "$GUEST/root/lib/modules")
version=$(dpkg-query --admindir "$GUEST/root/var/lib/dpkg" -W -f '${Version}' "linux-image-$kernel")
flavour=${kernel##*-}
common=${kernel%-"$flavour"}
series=$(echo "$version" | cut -d . -f 1-2)
root=$TARGET/root
cp -a "$BASE/root" "$root"
# A mount of its own, so that one umount takes with it what is lent.
mount --bind "$root" "$root"
lend "$root"
install_packages "$root" $PACKAGES
mkdir -p "$root/build/source"
wanted=
for package in "headers-$kernel" "headers-$common-common" "kbuild-$common" "source-$series"; do
    wanted="$wanted linux-$package=$version"
done
chroot "$root" sh -c "cd /build && apt-get download $wanted" || {
    echo "the guest's kernel is $version, and the mirror has not all of$wanted: remove $GUEST to get the newer kernel"
    exit 1
}
for package in "$root/build"/linux-headers-*.deb "$root/build"/linux-kbuild-*.deb; do dpkg-deb -x "$package" "$root"; done
archive=linux-source-$series
dpkg-deb --fsys-tarfile "$root/build/$archive"_*.deb | tar -xO "./usr/src/$archive.tar.xz" | xz -dc -T 0 |
    tar -x -C "$root/build/source" --strip-components=1 $(printf "$archive/%s " $DRIVERS)
cp "$LAB"/drivers/*.c "$root/build/source"
# Without debugging information: it would need the whole kernel's, and is read by nobody.
for driver in $DRIVERS; do
    case $driver in *.c) echo "obj-m += ${driver%.c}.o" ;; *) echo "obj-m += $driver/" ;; esac
done > "$root/build/source/Kbuild"
for driver in "$LAB"/drivers/*.c; do echo "obj-m += $(basename "$driver" .c).o"; done >> "$root/build/source/Kbuild"
chroot "$root" make -j "$(nproc)" -C "/usr/src/linux-headers-$kernel" M=/build/source \
    CONFIG_DEBUG_INFO= CONFIG_DEBUG_INFO_BTF_MODULES= $OPTIONS modules
mkdir "$TARGET/$kernel"
find "$root/build/source" -name '*.ko' -exec cp -t "$TARGET/$kernel" {} +
umount -R "$root"
rm -r "$root"
