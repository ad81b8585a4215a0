#!/bin/sh
# The whole of stage 3 on this machine: local app, server and client, with their logs in one stream, each
# in its own colour (no colours when that is no terminal, or NO_COLOR is set). Run it with `make demo`.
#
#   APP_PORT=8080  CONTROL_PORT=60623  PUBLIC_PORT=60624  PROXY_PORT=60625   other ports (0: any free one)
#   DEMO_SECONDS=3   ends by itself after so many seconds; otherwise Ctrl-C does
#
# Where a port is taken it says so, by whom, and how to choose another.
#
# All three write into one FIFO; `paint` reads it, prints, and leaves a note for each port that is open.
set -u
cd "$(dirname "$0")/.." || exit 1
APP_PORT=${APP_PORT:-8080} CONTROL_PORT=${CONTROL_PORT:-60623}
PUBLIC_PORT=${PUBLIC_PORT:-60624} PROXY_PORT=${PROXY_PORT:-60625}
programs=${OUT:-}stage3-local

# On a terminal, in a process group of its own (set -m): Ctrl-C then ends the demo and not `make` as well,
# which would call that an error.
if [ -z "${DEMO_INNER:-}" ] && [ -t 0 ] && [ -t 2 ] &&
    read -r _ _ _ _ group _ _ foreground _ </proc/$$/stat 2>/dev/null && [ "$group" = "$foreground" ]; then
    set -m
    DEMO_INNER=1 sh stage3-local/demo.sh
    exit
fi

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
    escape=$(printf '\033')
    app_color="${escape}[33m" server_color="${escape}[36m" client_color="${escape}[35m"
    bold="${escape}[1m" dim="${escape}[2m" plain="${escape}[0m"
else
    app_color='' server_color='' client_color='' bold='' dim='' plain=''
fi

paint() {
    while IFS= read -r line; do
        case $line in
        ????-??-??\ *) line=${line#* } ;; # it is for eyes, and these know the date
        esac
        time=${line%% *}
        text=${line#* }
        case $time in
        ??:??:??.???) ;;
        *) echo "$line" && continue ;;
        esac
        case $text in
        app:*) color=$app_color ;;
        server:*) color=$server_color ;;
        client:*) color=$client_color ;;
        *) color='' ;;
        esac
        case $text in
        app:*listening*) echo "${line##* }" >"$notes/app" ;;
        *"listening for users"*) echo "${line##* }" >"$notes/public" ;;
        *"listening for the client"*) echo "${line##* }" >"$notes/control" ;;
        *"listening for proxy"*) echo "${line##* }" >"$notes/proxy" ;;
        *"cannot listen on port"*) echo "${text##*on port }" >"$notes/taken" ;;
        "client: step 2:"*) echo "${line##* }" >"$notes/client" ;;
        esac
        printf '%s%s%s %s%-7s %s%s\n' "$dim" "$time" "$plain" "$color" "${text%%:*}:" "${text#*: }" "$plain"
    done
}

# ---- starting and stopping ------------------------------------------------------------------------------

pids=''
start() {
    "$@" >&3 2>&3 3>&- &
    pids="$! $pids" # the last one started is the first to stop
}

any_alive() {
    for pid in $pids; do kill -0 "$pid" 2>/dev/null && return; done
    return 1
}

all_alive() {
    for pid in $pids; do kill -0 "$pid" 2>/dev/null || return; done
}

# Waits until the note is there, and sets `port` to what is in it.
await() {
    tries=0
    until [ -s "$notes/$1" ]; do
        all_alive && [ "$tries" -lt 100 ] || return
        sleep 0.1
        tries=$((tries + 1))
    done
    port=$(cat "$notes/$1")
}

stop() {
    trap '' INT TERM HUP
    for pid in $pids; do kill "$pid" 2>/dev/null; done
    tries=0
    while any_alive && [ "$tries" -lt 30 ]; do
        sleep 0.1
        tries=$((tries + 1))
    done
    for pid in $pids; do kill -KILL "$pid" 2>/dev/null; done
    exec 3>&- # with this and the three gone, paint sees the end
    wait
}

# ---- if a port is taken: by whom? Linux tells in /proc -----------------------------------------------------

# The inode of the socket that has the port on all addresses or on localhost: that which listens, if one does.
# 0 stands for a connection that has just been closed; nothing for none.
socket_on() {
    cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | awk -v port="$(printf ':%04X' "$1")" '
        $2 ~ "^(0+|0100007F|0+01000000)" port "$" && (!inode || $4 == "0A") { inode = $10 }
        END { print inode }'
}

# By whom a port is taken; nothing if that cannot be seen.
holder() {
    inode=$(socket_on "$1")
    if [ "$inode" = 0 ]; then
        echo " for a minute by a connection that has ended"
        return
    fi
    # shellcheck disable=SC2012  # all names there are numbers
    pid=$(ls -l /proc/[0-9]*/fd 2>/dev/null | awk -v socket="socket:[$inode]" '
        /^\/proc\// { split($0, part, "/") }
        $NF == socket { print part[3]; exit }')
    [ -n "$pid" ] && echo " by process $pid ($(tr '\0' ' ' <"/proc/$pid/cmdline" | cut -c 1-80 | sed 's/ *$//'))"
}

free_port() {
    port=8000
    while [ -n "$(socket_on $port)" ] || echo " $APP_PORT $CONTROL_PORT $PUBLIC_PORT $PROXY_PORT " | grep -q " $port "; do
        port=$((port + 1))
    done
    echo $port
}

finish() {
    stop
    rm -rf "$notes"
    echo
    echo "  The demo is over: app, server and client have ended."
    exit 0
}

fail() {
    [ -z "$over" ] || finish
    stop
    reason=$*
    if [ -s "$notes/taken" ]; then
        taken=$(sed 's/[^0-9].*//' "$notes/taken")
        case $taken in
        "$APP_PORT") variable=APP_PORT ;;
        "$CONTROL_PORT") variable=CONTROL_PORT ;;
        "$PUBLIC_PORT") variable=PUBLIC_PORT ;;
        *) variable=PROXY_PORT ;;
        esac
        other=$(free_port)
        reason="port $taken is taken$(holder "$taken"). Another one: make demo $variable=$other"
    fi
    rm -rf "$notes"
    echo "The demo cannot run: $reason" >&2
    exit 1
}

# ---- the demo ---------------------------------------------------------------------------------------------

notes=$(mktemp -d) || exit 1
over=''
trap 'over="the user"' INT TERM HUP
mkfifo "$notes/logs" && exec 3<>"$notes/logs" || exit 1
(exec 3>&- && paint) <"$notes/logs" &

broken="what is above says why."
start "$programs/app" "$APP_PORT"
await app || fail "$broken"
app=$port
# Without spares (--spares 0) the log shows the six steps in their order. --drain 0: a stop takes no time.
start "$programs/server" -b 127.0.0.1 -c "$CONTROL_PORT" -u "$PUBLIC_PORT" -x "$PROXY_PORT" --spares 0 --drain 0
await control || fail "$broken"
control=$port
await proxy || fail "$broken"
proxy=$port
await public || fail "$broken"
public=$port
start "$programs/client" -c "$control" -x "$proxy" --drain 0 "127.0.0.1:$app" 127.0.0.1
await client || fail "$broken"

cat <<END

  The tunnel is up.  Open  ${bold}http://localhost:$public${plain}  in a browser.

  ${dim}you -> server, port $public -> the tunnel -> client -> app, port $app${plain}
  ${dim}${DEMO_SECONDS:+It ends after $DEMO_SECONDS s; }Ctrl-C ends it${DEMO_SECONDS:+ sooner}.${plain}

END

started=$(date +%s)
while [ -z "$over" ] && all_alive; do
    [ -n "${DEMO_SECONDS:-}" ] && [ $(($(date +%s) - started)) -ge "${DEMO_SECONDS%%.*}" ] && over='the time'
    sleep 0.2
done
[ -n "$over" ] || fail "one of the three ended by itself; $broken"
finish
