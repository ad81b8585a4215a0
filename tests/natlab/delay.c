/* A long wire between two network namespaces: `delay MS NAMESPACE DEVICE NAMESPACE DEVICE`.
 *
 * The lab uses it where the kernel has no tc netem. It makes a TUN device in each namespace and goes into
 * the background; when it is ended, both devices are gone with it. A TUN device is a network card whose wire is a file:
 * a packet that is routed into the device can be read here, one that is written here comes out of it.
 * Each packet that is read from one device is stamped with the time at which it is due, MS later, and kept
 * in a queue; when its time has come it is written to the other device. All packets of a direction are
 * delayed alike, so the queue's first is always the next one due, and no packet overtakes another. */
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
#include <time.h>
#include <unistd.h>

enum {
    PACKET_MAX = 2048, /* bytes; the lab's devices have an MTU of 1500 */
    QUEUE_MAX = 16384 /* packets on the wire, each way: 24 MB; what comes on top is lost, as on a real line */
};

struct packet {
    int64_t due_ns;
    size_t size;
    char bytes[PACKET_MAX];
};

/* One direction of the wire. */
struct wire {
    int from;
    int to;
    int64_t delay_ns;
    size_t first; /* a ring: the packets first .. first + count - 1, modulo QUEUE_MAX */
    size_t count;
    struct packet *packets;
};

static void die(const char *what)
{
    fprintf(stderr, "delay: %s: %s\n", what, strerror(errno));
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

static struct wire make_wire(int from, int to, int64_t delay_ns)
{
    struct wire wire = {.from = from, .to = to, .delay_ns = delay_ns};

    wire.packets = malloc(QUEUE_MAX * sizeof *wire.packets); /* untouched pages cost nothing */
    if (wire.packets == NULL)
        die("queue");
    return wire;
}

/* Puts every packet that waits at the near end on the wire. */
static void take_in(struct wire *wire)
{
    for (;;) {
        struct packet *packet = &wire->packets[(wire->first + wire->count) % QUEUE_MAX];
        char lost[PACKET_MAX];
        bool full = wire->count == QUEUE_MAX;
        ssize_t size = read(wire->from, full ? lost : packet->bytes, PACKET_MAX);

        if (size <= 0)
            return;
        if (full)
            continue;
        packet->size = (size_t)size;
        packet->due_ns = now_ns() + wire->delay_ns;
        wire->count++;
    }
}

/* Hands out every packet whose time has come. */
static void hand_out(struct wire *wire)
{
    while (wire->count > 0 && wire->packets[wire->first].due_ns <= now_ns()) {
        const struct packet *packet = &wire->packets[wire->first];

        if (write(wire->to, packet->bytes, packet->size) < 0 && errno != EIO && errno != EAGAIN)
            die("write"); /* EIO: the device is down, the packet is lost */
        wire->first = (wire->first + 1) % QUEUE_MAX;
        wire->count--;
    }
}

static int64_t next_due(const struct wire *wire)
{
    return wire->count > 0 ? wire->packets[wire->first].due_ns : INT64_MAX;
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

int main(int argc, char **argv)
{
    struct wire wires[2];
    int64_t delay_ns;
    int near;
    int far;

    if (argc != 6) {
        fprintf(stderr, "usage: delay MS NAMESPACE DEVICE NAMESPACE DEVICE\n");
        return 2;
    }
    delay_ns = atoi(argv[1]) * INT64_C(1000000);
    near = open_tun(argv[2], argv[3]);
    far = open_tun(argv[4], argv[5]);
    if (daemon(0, 0) < 0)
        die("daemon");
    wires[0] = make_wire(near, far, delay_ns);
    wires[1] = make_wire(far, near, delay_ns);
    for (;;) {
        wait_for_packets(wires);
        for (int i = 0; i < 2; i++) {
            take_in(&wires[i]);
            hand_out(&wires[i]);
        }
    }
}
