#!/bin/busybox sh
# The first process of the test machine: a block device from a Torus volume, through the kernel's
# own nbd driver. Prints "VM PASS step" or "VM FAIL step" for each, and turns the machine off.
# Kernel command line: torus.nbd=PORT torus.admin=PORT torus.next=PORT torus.volume=NAME, where next is
# another peer's NBD. "VM KILL gateway" asks the host to kill the first peer.
/bin/busybox --install -s /bin
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /run /tmp /mnt
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
dmesg -n 4

for word in $(cat /proc/cmdline); do
  case $word in
    torus.nbd=*) nbd=${word#*=} ;;
    torus.admin=*) admin=${word#*=} ;;
    torus.next=*) next=${word#*=} ;;
    torus.volume=*) volume=${word#*=} ;;
  esac
done

finish () {
  echo "VM DONE $1"
  sync
  poweroff -f
}
# step NAME COMMAND…: what it printed is shown only when it failed. The next steps build on it, so
# the first failure is the end.
step () {
  name=$1
  shift
  if "$@" > /tmp/step 2>&1; then
    echo "VM PASS $name"
  else
    echo "VM FAIL $name: exit code $?"
    sed 's/^/    /' /tmp/step
    finish 1
  fi
}

torus () { node /torus/dist/src/cli/main.js "$@"; }
size_is () { [ "$(blockdev --getsize64 "$1")" = "$2" ]; }
is_free () { [ ! -e /sys/block/nbd0/pid ] && [ "$(cat /sys/block/nbd0/size)" = 0 ]; }
refuses () { ! "$@"; }
write_files () {
  dd if=/dev/urandom of=/mnt/large bs=1M count=24 && mkdir /mnt/small || return 1
  for number in $(seq 1 200); do echo "$number" > "/mnt/small/$number" || return 1; done
  (cd /mnt && find . -type f -exec md5sum {} +) > /tmp/sums && sync
}
# Writes for as long as the file /tmp/writing is there; what it wrote last is in /tmp/last.
keep_writing () {
  number=0
  while [ -e /tmp/writing ]; do
    number=$((number + 1))
    dd if=/dev/urandom of="/mnt/during/$number" bs=64k count=4 2> /dev/null || return 1
    sync && (cd /mnt && md5sum "during/$number" >> /tmp/during) || return 1
    echo "$number" > /tmp/last
  done
}
begin_writing () {
  mkdir /mnt/during && touch /tmp/writing || return 1
  keep_writing > /tmp/writer 2>&1 &
  writer=$!
}
goes_on () {
  from=$(cat /tmp/last 2> /dev/null || echo 0)
  for second in $(seq 1 "$1"); do
    [ "$(cat /tmp/last 2> /dev/null || echo 0)" -gt $((from + 2)) ] && return 0
    sleep 1
  done
  cat /tmp/writer; dmesg | tail -20; cat /run/torus/*.log
  return 1
}
end_writing () { rm /tmp/writing && wait "$writer"; }
no_io_error () { ! dmesg | grep -i 'I/O error\|remount\|EXT4-fs error'; }
during_match () { (cd /mnt && md5sum -c -s /tmp/during); }
sums_match () { (cd /mnt && md5sum -c -s /tmp/sums); }
remove_and_trim () { rm -r /mnt/small /mnt/large && sync && fstrim -v /mnt; }

insmod_all () {
  for module in $(cat /modules/order); do insmod "/modules/$module" || return 1; done
}
step 'the kernel loads its nbd driver' insmod_all
ip link set lo up
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
# The peer says that it is on 127.0.0.1, which is the host: relay these two ports to there.
for port in "$nbd" "$admin"; do
  nc -ll -p "$port" -e nc 10.0.2.2 "$port" &
done
sleep 1
export TORUS_ADMIN="http://127.0.0.1:$admin"

device=/dev/nbd0
step 'torus volume show reaches the peer' torus volume show "$volume"
step 'torus attach makes a device' torus attach "$volume" "$device"
step 'the device has the size of the volume' size_is "$device" $((1024 * 1024 * 1024))
step 'a second attach of the device is refused' refuses torus attach "$volume" "$device"
step 'mkfs.ext4 discards and formats it' mkfs.ext4 -q -b 4096 "$device"
step 'it mounts' mount -t ext4 -o discard "$device" /mnt
step 'files are written and synced' write_files
step 'torus detach of a mounted device is refused' refuses torus detach "$volume"
step 'it unmounts' umount /mnt
step 'fsck finds nothing' e2fsck -f -n "$device"
step 'torus detach frees the device' torus detach "$volume"
step 'the device is free' is_free
step 'torus attach with four connections' torus attach "$volume" "$device" --connections 4
step 'it mounts again' mount -t ext4 "$device" /mnt
step 'every file is as written' sums_match
step 'files are removed and their space trimmed' remove_and_trim
step 'it unmounts again' umount /mnt
step 'fsck finds nothing again' e2fsck -f -n "$device"
step 'torus detach by device' torus detach "$device"
step 'the device is free again' is_free
step 'torus attach with two gateways' torus attach "$volume" "$device" --gateway "10.0.2.2:$nbd,10.0.2.2:$next"
step 'it mounts once more' mount -t ext4 "$device" /mnt
step 'a program writes and syncs all the time' begin_writing
step 'it gets on' goes_on 60
echo 'VM KILL gateway'
sleep 2
step 'it gets on with the next gateway after kill -9 of the first' goes_on 90
step 'it was told of no error' end_writing
step 'nor was the kernel' no_io_error
step 'every file is there' during_match
step 'it unmounts at the next gateway' umount /mnt
step 'fsck finds nothing there' e2fsck -f -n "$device"
step 'torus detach ends the relay' torus detach "$device"
step 'the device is free at last' is_free
finish 0
