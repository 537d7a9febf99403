# The guest's disk: root and virtual environment in one sparse ext4 file. It is only ever
# opened under a throw-away overlay, so it needs no journal.
root=$GUEST/root
mount --bind "$VENV/venv" "$root/opt/venv"
mke2fs -q -t ext4 -O ^has_journal -m 0 -L lab -d "$root" "$TARGET/disk.img" "$SIZE"
