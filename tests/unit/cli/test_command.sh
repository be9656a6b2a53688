#!/bin/sh
# The command's usage errors and exit codes.  $1: the vmferry program, $2: the
# folder of the sources.
vmferry=$1
sources=$2
failures=0
VMFERRY_SOCKET=/nonexistent/agent.sock
export VMFERRY_SOCKET

# expect CODE WORDS ARGUMENTS…: exit code, and words somewhere in the output
expect() {
    code=$1 words=$2
    shift 2
    output=$("$vmferry" "$@" 2>&1 </dev/null)
    got=$?
    case $output in *"$words"*) found=yes ;; *) found=no ;; esac
    if [ $got -ne $code ] || [ $found = no ]; then
        echo "vmferry $*: exit code $got (wanted $code), output: $output"
        failures=$((failures + 1))
    fi
}

expect 2 'Usage: vmferry VERB'
expect 0 'Usage: vmferry VERB' --help
expect 0 'Usage: vmferry VERB' help
expect 0 'vmferry 0.' --version
expect 0 'vmferry 0.' version
expect 0 '{"version":"0.' version --json
expect 2 'there is no verb "frob"' frob
expect 2 'options follow the verb: vmferry VERB --json' --json list
expect 2 'there is no verb "frob"' help frob
for verb in agent pki run adopt list status top disk image stop events estimate migrate bandwidth protect unprotect failover cancel resolve check version help; do
    expect 0 "vmferry $verb" $verb --help
    expect 2 'Unknown option --frob' $verb --frob
    expect 2 "Try \`vmferry $verb --help\`" $verb --frob
done
for verb in stop cancel; do
    expect 2 'one NAME is missing' $verb
    expect 2 'too many arguments' $verb a b
    expect 2 'is not a valid name for a guest' $verb a/b
    expect 1 'cannot reach the agent at /nonexistent/agent.sock: is `vmferry agent` running?' $verb a
    expect 1 '{"error":{"code":"disconnected"' $verb a --json
done
expect 2 'NAME and RATE is missing' bandwidth a
expect 2 'too many arguments' bandwidth a 1M b
expect 2 'bandwidth --help' bandwidth a fast
expect 1 'cannot reach the agent' bandwidth a 1M
expect 2 'NAME and perhaps HOST' estimate
expect 2 '--bandwidth: ' estimate a --bandwidth fast
expect 1 'cannot reach the agent' estimate a b --seconds 1
expect 2 '--host and --socket exclude each other' list --host a --socket /tmp/none.sock
expect 1 'the certificate to show to agents' list --host a --pki /nonexistent
expect 2 'Unknown option --host' stop a --host b
expect 1 'cannot reach the agent' list
expect 1 'cannot reach the agent at /tmp/none.sock' list --socket /tmp/none.sock
expect 1 'cannot reach the agent' status
expect 1 'cannot reach the agent' events
expect 1 'cannot reach the agent' top
expect 1 '{"error":{"code":"disconnected"' top --once --json
expect 2 'wanted options only' top web1
expect 2 'wanted one NAME' run
expect 2 'the QEMU command line is missing' run a
expect 2 'the QEMU command line is missing' run a --
expect 2 "begins with the program's name" run a -m 1G
expect 2 "begins with the program's name" run a -- -m 1G
expect 2 'wanted one NAME' run a b -- qemu-system-x86_64
expect 2 'is not a valid name for a guest' run a/b -- qemu-system-x86_64
expect 1 'cannot reach the agent' run a -- qemu-system-x86_64 -m 1G
expect 1 'cannot reach the agent' run a qemu-system-x86_64 -m 1G --frob
expect 1 '{"error":' run --json a -- qemu-system-x86_64
expect 1 '{"error":' run a --json -- qemu-system-x86_64
expect 2 'wanted `list NAME`' disk
expect 2 'wanted `list NAME`' disk show a
expect 2 'one NAME is missing' disk list
expect 2 'too many arguments' disk list a b
expect 2 'is not a valid name for a guest' disk list a/b
expect 1 'cannot reach the agent' disk list a
expect 1 '{"error":' disk list a --json
expect 2 'wanted `info FILE`, `verify FILE`' image
expect 2 'wanted `info FILE`, `verify FILE`' image info
expect 2 'wanted `info FILE`, `verify FILE`' image info a b
expect 2 'wanted `info FILE`, `verify FILE`' image merge a
expect 2 '--overwrite is for merge only' image info a --overwrite
expect 1 'open /nonexistent/key: No such file' image info a --key-file /nonexistent/key
expect 1 '/nonexistent/image: No such file' image info /nonexistent/image
expect 1 '{"error":{"code":"not-found"' image verify /nonexistent/image --json
expect 1 '/nonexistent' image list /nonexistent
expect 1 'is not a saved image' image info /etc/passwd
expect 2 'NAME is missing' debug
expect 2 'too many arguments' debug a b
expect 2 'too many arguments' debug a --image /nonexistent/image
expect 2 '--key-file goes with --image' debug a --key-file /nonexistent/key
expect 2 'is not a valid name for a guest' debug a/b
expect 2 'give either --pid PID or --libvirt DOMAIN' adopt a
expect 2 'give either --pid PID or --libvirt DOMAIN' adopt a --pid 1 --libvirt b
expect 2 '--connect goes with --libvirt' adopt a --pid 1 --connect b
expect 2 'Cannot parse integer value' adopt a --pid x
expect 2 'NAME and HOST[:PORT] is missing' migrate a
expect 2 '--verify compares all memory before the guest runs there' migrate a b --mode postcopy --verify
expect 2 '--mode: "x" is not a valid choice; use auto, precopy, postcopy or hybrid' migrate a b --mode x
expect 2 '--bandwidth: "fast" is not a valid rate' migrate a b --bandwidth fast
expect 2 '--tracker: "x" is not a valid choice; use auto, pagemap-scan or uffd-sync' migrate a b --tracker x
expect 2 '--max-downtime: "-1" is not a valid time' migrate a b --max-downtime=-1
expect 2 '--max-downtime: "soon" is not a valid time' migrate a b --max-downtime soon
expect 2 '--max-downtime must be from 1 ms to 1 h' migrate a b --max-downtime 0
expect 2 '--downtime-cap must be from 1 ms to 1 h' migrate a b --downtime-cap 2h
expect 2 '--downtime-cap of 200 ms is below --max-downtime of 1000 ms: it must be at least 1000 ms' \
    migrate a b --max-downtime 1s --downtime-cap 200ms
expect 2 '--deadline must be from 1 ms to 24 h' migrate a b --deadline 0
expect 2 '--memory-budget must be from 1Mi to 1024Gi bytes' migrate a b --memory-budget 0
expect 2 '--memory-budget: "big" is not a valid size' migrate a b --memory-budget big
for streams in 0 17; do
    expect 2 '--streams must be from 1 to 16' migrate a b --streams $streams
done
expect 2 '--streams: "x" is not a valid number' migrate a b --streams x
expect 2 '--throttle: "hard" is not a valid choice; use auto, cgroup, duty or off' migrate a b --throttle hard
expect 2 '--segments: "x" is not a valid choice; use auto, fingerprint, shadow or off' migrate a b --segments x
expect 2 '--compress: "zip" is not a valid choice; use auto, none, lz4 or zstd' migrate a b --compress zip
expect 2 '--disks: "x" is not a valid choice; use auto, shared, copy or top' migrate a b --disks x
for disk in virtio0 =copy virtio0= virtio0=move virtio0=copy=; do
    expect 2 "--disk $disk: give a disk's id, \"=\", and auto, shared, copy or top" migrate a b --disk $disk
done
expect 2 '--keep and --delete-source contradict each other' migrate a b --keep --delete-source
expect 2 '--record needs a reader until the move has ended: not with --detach' \
    migrate a b --detach --record /nonexistent/trace
expect 1 '--record /nonexistent/trace: No such file' migrate a b --record /nonexistent/trace
expect 2 'is not a valid name for a guest' migrate a/b c
expect 1 'cannot reach the agent' migrate a b
expect 1 '"status":"failed"' migrate a b --json
expect 2 '--keep here or --keep there is missing' resolve a
expect 2 '--keep here or --keep there is missing' resolve a --keep both
expect 2 'wanted `init`, `issue HOST' pki
expect 2 'wanted `init`, `issue HOST' pki issue
expect 2 'Unknown option --name' pki issue a --name b
expect 2 '"a/b" is not the name or address of a host' pki issue a/b
expect 2 '--days must be above 0' pki init --days=-1
expect 2 '"nowhere:x" is not a valid address' agent --config /dev/null --listen nowhere:x
expect 2 'open /nonexistent.conf' agent --config /nonexistent.conf
expect 0 'source.start-sent' agent --list-faults

folder=$(mktemp -d) || exit 1
expect 0 'A new certificate authority' pki init --dir "$folder/ca"
expect 1 'vmferry pki: ' pki init --dir "$folder/ca"
expect 0 'The certificate of hosta is in' pki issue hosta --dir "$folder/ca" --out "$folder/pki"
expect 0 'The certificate of hostb, 10.0.0.2 is in' pki issue hostb 10.0.0.2 --dir "$folder/ca"
expect 1 '"b c" is neither a host name' pki issue hostc 'b c' --dir "$folder/ca"
expect 1 'make certificates with `vmferry pki init`' agent --config /dev/null --pki "$folder/none" \
    --state-dir "$folder/state" --runtime-dir "$folder/run" --socket "$folder/s"
printf '[agent]\nlissten = x\n' >"$folder/agent.conf"
expect 2 'lissten: unknown key' agent --config "$folder/agent.conf"

# The example's comments are the defaults: with and without "#" it must be taken.
expect 2 '"x:y" is not a valid address' agent --config "$sources/docs/agent.conf.example" --listen x:y
sed 's/^#\([a-z-]* = .*\)/\1/' "$sources/docs/agent.conf.example" >"$folder/agent.conf"
expect 2 '"x:y" is not a valid address' agent --config "$folder/agent.conf" --listen x:y
rm -rf "$folder"

for verb in agent pki run adopt list status disk stop events estimate migrate bandwidth protect unprotect failover cancel resolve check; do
    ls "$sources/man/vmferry-$verb."[18] >/dev/null 2>&1 || {
        echo "vmferry $verb has no man page"
        failures=$((failures + 1))
    }
done

[ $failures -eq 0 ] || echo "$failures failures"
[ $failures -eq 0 ]
