/* A long wire between two network namespaces:
 *
 *   wire MS MBIT PER_MILLE QUEUE SEED  NAMESPACE DEVICE  NAMESPACE DEVICE
 *
 * The lab uses it where the kernel has no tc netem. It makes a TUN device in each namespace and goes into
 * the background; when it is ended, both devices are gone with it. A TUN device is a network card whose wire is a file:
 * a packet that is routed into the device can be read here, one that is written here comes out of it.
 *
 * What befalls a packet, in each direction alike:
 * 1. The dice may lose it: PER_MILLE of all packets (0: none), always the same ones for the same SEED.
 * 2. It waits until those before it have been sent. If QUEUE packets wait already, it is lost.
 * 3. It is sent, at MBIT megabits a second (0: in no time).
 * 4. It arrives MS milliseconds later.
 * All of this is known when the packet comes: so it is stamped with the time at which it is due, and kept in a ring
 * until then. Packets are due in the order in which they came, none overtakes another. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

enum {
    PACKET_MAX = 2048, /* bytes; the lab's devices have an MTU of 1500 */
    RING_SIZE = 32768  /* packets that wait or are on their way, in one direction: 4 s at 100 Mbit/s */
};

struct packet {
    int64_t sent_ns; /* when it has left the queue to its last bit */
    int64_t due_ns;  /* when it arrives */
    size_t size;
    char bytes[PACKET_MAX];
};

/* What one direction of the wire does to packets. */
struct quality {
    int64_t delay_ns;
    int64_t rate_mbit;
    uint64_t lost_per_mille;
    size_t queue;
};

/* One direction of the wire. */
struct wire {
    int from;
    int to;
    struct quality quality;
    uint64_t dice;
    size_t first; /* a ring: the packets first .. first + count - 1, modulo RING_SIZE */
    size_t count;
    size_t waiting; /* how many of them, the last ones, have not been sent */
    struct packet *packets;
};

static void die(const char *what)
{
    fprintf(stderr, "wire: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* Makes a TUN device in a namespace; the process stays in that namespace. */
static int open_tun(const char *namespace, const char *device)
{
    char path[256];
    struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI};
    int fd;

    snprintf(path, sizeof path, "/run/netns/%s", namespace);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || setns(fd, CLONE_NEWNET) < 0)
        die(path);
    close(fd);
    fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        die("/dev/net/tun");
    snprintf(request.ifr_name, sizeof request.ifr_name, "%s", device);
    if (ioctl(fd, TUNSETIFF, &request) < 0)
        die(device);
    return fd;
}

static struct wire make_wire(int from, int to, struct quality quality, uint64_t seed)
{
    struct wire wire = {.from = from, .to = to, .quality = quality, .dice = seed};

    wire.packets = malloc(RING_SIZE * sizeof *wire.packets); /* untouched pages cost nothing */
    if (wire.packets == NULL)
        die("ring");
    return wire;
}

static struct packet *packet_at(const struct wire *wire, size_t place)
{
    return &wire->packets[(wire->first + place) % RING_SIZE];
}

/* The next number of an endless row that looks like chance and is the same for the same seed (splitmix64). */
static uint64_t roll(uint64_t *dice)
{
    uint64_t number = *dice += UINT64_C(0x9e3779b97f4a7c15);

    number = (number ^ number >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    number = (number ^ number >> 27) * UINT64_C(0x94d049bb133111eb);
    return number ^ number >> 31;
}

/* Whether a packet that comes now does not get onto the wire. */
static bool is_lost(struct wire *wire, int64_t now)
{
    bool unlucky = roll(&wire->dice) % 1000 < wire->quality.lost_per_mille;

    while (wire->waiting > 0 && packet_at(wire, wire->count - wire->waiting)->sent_ns <= now)
        wire->waiting--;
    return unlucky || wire->waiting > wire->quality.queue || wire->count == RING_SIZE - 1;
}

/* Puts a packet behind all others. The one that is being sent counts as waiting, but not as queued. */
static void put_on_wire(struct wire *wire, struct packet *packet, int64_t now)
{
    int64_t bits = (int64_t)packet->size * 8;
    int64_t takes_ns = wire->quality.rate_mbit > 0 ? bits * 1000 / wire->quality.rate_mbit : 0;
    int64_t begins_ns = wire->waiting > 0 ? packet_at(wire, wire->count - 1)->sent_ns : now;

    packet->sent_ns = begins_ns + takes_ns;
    packet->due_ns = packet->sent_ns + wire->quality.delay_ns;
    wire->count++;
    wire->waiting++;
}

/* Takes in every packet that has come to the near end. One place of the ring is always free for the next. */
static void take_in(struct wire *wire)
{
    for (;;) {
        struct packet *packet = packet_at(wire, wire->count);
        ssize_t size = read(wire->from, packet->bytes, PACKET_MAX);
        int64_t now = now_ns();

        if (size <= 0)
            return;
        packet->size = (size_t)size;
        if (!is_lost(wire, now))
            put_on_wire(wire, packet, now);
    }
}

static int64_t next_due(const struct wire *wire)
{
    return wire->count > 0 ? packet_at(wire, 0)->due_ns : INT64_MAX;
}

/* Hands out every packet whose time has come. */
static void hand_out(struct wire *wire)
{
    while (next_due(wire) <= now_ns()) {
        const struct packet *packet = packet_at(wire, 0);

        if (write(wire->to, packet->bytes, packet->size) < 0 && errno != EIO && errno != EAGAIN)
            die("write"); /* EIO: the device is down, the packet is lost */
        wire->first = (wire->first + 1) % RING_SIZE;
        wire->count--;
        if (wire->waiting > wire->count)
            wire->waiting = wire->count;
    }
}

/* Waits until a packet comes or one is due. */
static void wait_for_packets(const struct wire wires[2])
{
    struct pollfd ends[2] = {{.fd = wires[0].from, .events = POLLIN},
                             {.fd = wires[1].from, .events = POLLIN}};
    int64_t due = next_due(&wires[0]) < next_due(&wires[1]) ? next_due(&wires[0]) : next_due(&wires[1]);
    int64_t left = due == INT64_MAX ? 0 : due - now_ns();
    struct timespec timeout = {0};

    if (left > 0) {
        timeout.tv_sec = left / 1000000000;
        timeout.tv_nsec = left % 1000000000;
    }
    if (ppoll(ends, 2, due == INT64_MAX ? NULL : &timeout, NULL) < 0 && errno != EINTR)
        die("poll");
}

/* Who forwards late has lengthened the wire: what it does comes before all others' work, and its naps end when they
 * should. Where this is not allowed, it does as well as it can. */
static void be_punctual(void)
{
    (void)sched_setscheduler(0, SCHED_RR, &(struct sched_param){.sched_priority = 2});
    (void)prctl(PR_SET_TIMERSLACK, 1);
}

int main(int argc, char **argv)
{
    struct wire wires[2];

    if (argc != 10) {
        fprintf(stderr, "usage: wire MS MBIT PER_MILLE QUEUE SEED NAMESPACE DEVICE NAMESPACE DEVICE\n");
        return 2;
    }
    struct quality quality = {.delay_ns = atoi(argv[1]) * INT64_C(1000000),
                              .rate_mbit = atoi(argv[2]),
                              .lost_per_mille = (uint64_t)atoi(argv[3]),
                              .queue = (size_t)atoi(argv[4])};
    uint64_t seed = (uint64_t)atoi(argv[5]);
    int near = open_tun(argv[6], argv[7]);
    int far = open_tun(argv[8], argv[9]);
    if (daemon(0, 0) < 0)
        die("daemon");
    be_punctual();
    wires[0] = make_wire(near, far, quality, seed);
    wires[1] = make_wire(far, near, quality, ~seed);
    for (;;) {
        wait_for_packets(wires);
        for (int i = 0; i < 2; i++) {
            take_in(&wires[i]);
            hand_out(&wires[i]);
        }
    }
}
