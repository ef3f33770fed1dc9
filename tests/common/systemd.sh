# Becomes systemd, as the first process of namespaces of its own: `sh systemd.sh SCRATCH UNITS`.
#
# It sees the machine's files, but may write to SCRATCH only; /tmp, /run and /var are empty ones of its
# own; and it knows no units but those in UNITS, so that nothing of what an ordinary start of a machine
# does (cleaning /tmp, for one) is done here.
set -e
scratch=$1
units=$2
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mkdir -p /run/lock /run/scratch
mount --bind "$scratch" /run/scratch
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /var
mkdir -p /var/tmp "$scratch"
mount --bind /run/scratch "$scratch"
umount -R -l /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -o remount,bind,ro /
# Should the test be killed: its directory goes, and with it all that runs here.
(while [ -e "$units/test.target" ]; do sleep 1; done; systemctl --force --force poweroff) &
exec env -i PATH="$PATH" container=stepdown-test SYSTEMD_UNIT_PATH="$units" \
    /lib/systemd/systemd --system --unit=test.target --log-target=console --show-status=no
