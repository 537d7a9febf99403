# The virtual environment /opt/venv with what requirements.lock names, made by the guest's own Python.
mkdir "$TARGET/venv"
lend "$GUEST/root"
mount --bind "$TARGET/venv" "$GUEST/root/opt/venv"
while read -r from to; do mkdir -p "$GUEST/root$to"; mount --bind "$from" "$GUEST/root$to"; done < "$CARRY/binds"
cp "$LOCK" "$GUEST/root/run/requirements.lock"
chroot "$GUEST/root" /usr/bin/python3 -m venv /opt/venv
chroot "$GUEST/root" /opt/venv/bin/python -m pip install --no-cache-dir --no-input --disable-pip-version-check --require-hashes -r /run/requirements.lock
