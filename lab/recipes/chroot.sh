# Shared by the recipes: work inside a Debian root with the host's name service and
# certificates lent to it. Every recipe runs in a mount and a PID namespace of its own,
# so nothing has to be unmounted and no process outlives the recipe.

# lend ROOT: mount what apt and pip need; all of it vanishes with the namespace.
lend() {
    mkdir -p "$1/etc/ssl/certs" "$1/opt/venv"
    touch "$1/etc/resolv.conf" "$1/etc/hosts"
    mount -t proc proc "$1/proc"
    mount -t tmpfs tmpfs "$1/run"
    mount -t tmpfs tmpfs "$1/tmp"
    for file in resolv.conf hosts; do
        mount --bind "/etc/$file" "$1/etc/$file"
        mount -o remount,bind,ro "$1/etc/$file"
    done
    # A copy: the root's own ca-certificates package writes this folder anew when it is installed.
    mount -t tmpfs tmpfs "$1/etc/ssl/certs"
    if [ -d /etc/ssl/certs ]; then cp -a /etc/ssl/certs/. "$1/etc/ssl/certs/"; fi
    mkdir -p "$1/run/carry"
    mount --bind "$CARRY" "$1/run/carry"
}

# install ROOT PACKAGE...: apt inside the root, without the waits that only matter on a machine to keep.
install_packages() {
    root=$1; shift
    # INITRD=No: the kernel's own initrd takes half a minute and the lab boots with its own.
    export INITRD=No DEBIAN_FRONTEND=noninteractive LC_ALL=C APT_CONFIG=/run/carry/apt.conf
    chroot "$root" apt-get update
    chroot "$root" apt-get -y --no-install-recommends -o Dpkg::Options::=--force-unsafe-io install "$@"
    chroot "$root" apt-get clean
}

# forget ROOT: leave no trace of this host or its mirror in the root.
forget() {
    umount "$1/etc/resolv.conf" "$1/etc/hosts"
    rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/* "$1"/var/log/* "$1/etc/apt/sources.list" "$1"/etc/apt/sources.list.d/*
    : > "$1/etc/resolv.conf"
    echo lab > "$1/etc/hostname"
    printf '127.0.0.1 localhost lab\n::1 localhost\n' > "$1/etc/hosts"
}
