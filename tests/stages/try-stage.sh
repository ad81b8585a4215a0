#!/bin/sh
# Makes my-stageN, for a reader who writes stage N: the code of the stage before it, and a note on what to add.
set -eu
cd "$(dirname "$0")/../.."

stage=$1
mine=my-stage$stage

case $stage in
0) from=tests/stages/skeleton ;;
1) from=stage0-pipe ;;
2) from=stage1-control ;;
3) from=stage2-proxy ;;
*) echo "There are stages 0 to 3." >&2; exit 2 ;;
esac

if [ -e "$mine" ]; then
    echo "$mine is there already: move it away or remove it first. Nothing was changed." >&2
    exit 1
fi
mkdir "$mine"
cp "$from/server.c" "$from/client.c" "$mine/"

case $stage in
0)
    cat <<NOTE
Stage 0: a pipe. Here are a server and a client that only read their command
line.

server   listens on --listen-port, and sends back to each connection all that
         comes from it. When the other side has said everything, and heard
         everything, the connection is closed.
client   listens too. For each connection that it accepts it dials TARGET, and
         joins the two: what one says, the other hears, both ways at once. The
         end of one direction (FIN) is passed on with shutdown(SHUT_WR) while
         the other goes on; a reset is passed on as a reset. A connection
         whose TARGET can't be reached is reset.

Both log \`listening for connections on port N\`, and exit with status 0 on
SIGINT and SIGTERM.
In common/: loop, listener, target, dial, relay, sock.
NOTE
    ;;
1)
    cat <<NOTE
Stage 1: the control connection. Here is the code of stage 0; of it you need
the shape of \`main\` and little else. Begin with the options: --control-port,
--heartbeat, the client's --count.

server   listens on --control-port (\`listening for the client on port N\`) for
         one client at a time.
             hello  ->  welcome    or \`busy\`, and it closes, if there is a
                                   client already
             ping   ->  pong
         A client that is silent for three heartbeats is dropped, and so is
         anyone who does not say the first line within 5 s, says a line of
         more than 127 bytes, or anything else.
client   says \`hello\`, waits for \`welcome\`, then says \`ping\` once in a
         heartbeat. A server that is silent for three heartbeats is dropped.
         After any loss it comes back: first after about 0.5 s, then twice as
         late each time, up to 30 s; a \`welcome\` begins anew. With --count N
         it exits with status 0 after N pongs.

Log the steps with their numbers: \`step 2: ...\` when the control connection
is open.
In common/: line, newcomers, backoff.
NOTE
    ;;
2)
    cat <<NOTE
Stage 2: users and proxy connections. Here is the code of stage 1. Begin with
the options, as no test goes without: --public-port, --proxy-port, --wait.

server   listens on --public-port for users and on --proxy-port for proxy
         connections as well (\`listening for users on port N\`,
         \`listening for proxy connections on port N\`).
             hello        ->  welcome TOKEN    32 random hex digits, new for
                                               each session
             a user comes ->  create_proxy     on the control connection
             proxy TOKEN                       the first line of a proxy
                                               connection; with any other
                                               TOKEN it is closed
         The first user that waits and the first proxy connection that waits
         are joined. A user that nobody serves within --wait seconds is
         dropped. Users that wait while no client is there are served when it
         comes; those who come when there has been none for longer than --wait
         are turned away at once, with a reset. Proxy connections that were
         missing at the last ping and still are have got lost: they are asked
         for again.
client   on \`create_proxy\` opens a proxy connection, says \`proxy TOKEN\`, and
         then echoes all that comes. One that can't be opened is tried again
         within a second.

The server logs a user's life:
\`user 7 done: 412 B up, 1.2 MB down, 0.3 s\`.
In common/: waitlist, relay, secret.
NOTE
    ;;
3)
    cat <<NOTE
Stage 3: the local app, and what a tunnel needs to be used. Here is the code of
stage 2. Begin with the options, as no test goes without: --spares,
--secret-file, --drain, and the client's argument LOCAL.

server   A secret (--secret-file, else TUNNEL_SECRET):
             hello SECRET -> welcome TOKEN PORT    the port that users come to
                             or \`denied\`, and it closes
         Spares: right after \`welcome\` it asks for --spares N proxy
         connections; one that is used or dies is replaced.
         \`start ADDRESS PORT\`, the user's, is what it says on a proxy
         connection when a user is joined to it; all that follows is the
         user's.
         Stop: after SIGINT or SIGTERM it listens no longer, and lets users
         finish for up to --drain seconds. A second signal ends it at once.
client   LOCAL (a port, or host:port) is the local app. On \`start\` it dials it
         and joins the two; if it is not there, the proxy connection is closed
         and all else goes on. With --proxy-protocol it tells the app first, in
         a line of the PROXY protocol, version 1, who the user is. \`denied\`
         ends it with status 1. It stops as the server does.
NOTE
    ;;
esac >"$mine/NOTE"

ours=$(echo "stage$stage"-*)
echo "All options, long and short, are those of ours: $ours/server --help" >>"$mine/NOTE"

echo "$mine is there, with a NOTE on what to add."
echo "To build it:      make $mine"
echo "What is missing:  make test-stage$stage DIR=$mine"
