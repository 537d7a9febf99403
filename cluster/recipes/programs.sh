# A Kubernetes and its runtime, static, from the Go module proxy by module name and version; each module's content has
# the checksum that modules.lock says, and its own go.sum has those of what it needs. Go itself comes from PyPI.
#   KUBERNETES, KUBELETS: versions    MODULES: "module version package:program,... tags" lines    CLUSTER: this room
#   KEPT: files of the modules that are kept too
# Linux shares the processors between sessions first, by a priority that each has, and this one is a session's.
[ "$(ps -o ni= -p $$)" -le 0 ] || echo 19 > /proc/self/autogroup 2>/dev/null || true
work=$TARGET/work
bin=$TARGET/bin
mkdir -p "$work" "$bin"
python3 -m venv "$work/go"
"$work/go/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$CLUSTER/go.lock"
export PATH="$work/go/bin:$PATH" HOME="$work" GOPATH="$work/path" GOCACHE="${GO_BUILD_CACHE:-$work/cache}"
export GOTOOLCHAIN=local GOWORK=off GOENV=off CGO_ENABLED=0
# Without inlining and debug information, and with fewer garbage collections, compiling takes two thirds of the time.
export GOFLAGS="-trimpath -buildvcs=false -mod=readonly -modcacherw '-gcflags=all=-l -dwarf=false'" GOGC=400
go version

# fetch MODULE VERSION: downloads it, checks its checksum, and says its folder.
fetch() {
    told=$(GOFLAGS=-mod=mod go mod download -json "$1@$2")
    sum=$(echo "$told" | sed -n 's/.*"Sum": "\(.*\)",*/\1/p')
    if ! grep -qx "$1 $2 $sum" "$CLUSTER/modules.lock"; then
        if grep -q "^$1 $2 " "$CLUSTER/modules.lock" || [ "${UNLOCKED:-}" != yes ]; then
            echo "$1 $2 has the checksum $sum; expected that of modules.lock" >&2
            exit 1
        fi
        echo "$1 $2 $sum" >> "$TARGET/modules.new"
    fi
    echo "$told" | sed -n 's/.*"Dir": "\(.*\)",*/\1/p'
}

# kubernetes VERSION PROGRAM...: k8s.io/kubernetes replaces its k8s.io/* modules by folders of its own repository,
# which its module lacks; the released modules of the same version are the same.
kubernetes() {
    version=$1; shift
    source=$work/kubernetes-$version
    folder=$(fetch k8s.io/kubernetes "v$version")
    cp -r "$folder" "$source"
    mkdir -p "$source/staging/src/k8s.io"
    # Examples of how to build on it, which not every proxy serves.
    sed -i '/k8s\.io\/sample-/d' "$source/go.mod"
    for module in $(sed -n 's#^\t\(k8s.io/[a-z-]*\) => ./staging.*#\1#p' "$source/go.mod"); do
        folder=$(cd "$work" && fetch "$module" "v0.${version#1.}")
        rm -rf "$source/staging/src/$module"
        cp -r "$folder" "$source/staging/src/$module"
    done
    sed -E -i "s#^(\tk8s.io/[a-z-]+) v0\.0\.0( //.*)?\$#\1 v0.${version#1.}\2#" "$source/go.mod"
    minor=${version#*.}
    flags="-s -w -X k8s.io/component-base/version.gitVersion=v$version"
    flags="$flags -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=${minor%%.*}"
    mkdir -p "$bin/$version"
    (cd "$source" && go build -ldflags "$flags" -o "$bin/$version/" $(printf './cmd/%s ' "$@"))
    rm -rf "$source"
}

kubernetes "$KUBERNETES" kube-apiserver kube-controller-manager kube-scheduler kubelet kubectl
for version in $KUBELETS; do
    [ "$version" = "$KUBERNETES" ] || kubernetes "$version" kubelet
done
echo "$MODULES" | while read -r module version programs tags; do
    [ -n "$module" ] || continue
    folder=$(cd "$work" && fetch "$module" "$version")
    source=$work/source/module
    mkdir "$work/source"
    cp -r "$folder" "$source"
    # Modules of its own repository, which it takes from beside it.
    sed -n 's#^\(replace \)\{0,1\}[\t ]*\([^ ]*\) => \(\.\./.*\)#\2 \3#p' "$source/go.mod" | while read -r beside place; do
        needed=$(sed -n "s#^[\t ]*$beside \(v[^ ]*\).*#\1#p" "$source/go.mod" | head -n 1)
        folder=$(cd "$work" && fetch "$beside" "$needed")
        mkdir -p "$source/$(dirname "$place")"
        cp -r "$folder" "$source/$place"
    done
    for program in $(echo "$programs" | tr , ' '); do
        (cd "$source" && go build -ldflags '-s -w' -tags "$tags" -o "$bin/${program##*:}" "${program%%:*}")
    done
    for file in $KEPT; do
        [ ! -e "$source/$file" ] || install -D -m 644 "$source/$file" "$TARGET/manifests/${file##*/}"
    done
    rm -rf "$work/source"
done
rm -rf "$work"
gcc -static -Os -s -o "$bin/pause" "$CLUSTER/guest/pause.c"

# What nodes run, on a disk of their own.
disk=$TARGET/disk
mkdir "$disk"
for program in containerd containerd-shim-runc-v2 ctr crictl; do ln "$bin/$program" "$disk/"; done
for version in $KUBERNETES $KUBELETS; do
    mkdir -p "$disk/$version"
    for program in kubelet kubectl; do
        [ ! -e "$bin/$version/$program" ] || ln -f "$bin/$version/$program" "$disk/$version/"
    done
done
mke2fs -q -t ext4 -O ^has_journal -m 0 -L programs -d "$disk" "$TARGET/programs.img" 1G
rm -r "$disk"
