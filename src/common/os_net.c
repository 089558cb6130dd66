/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages of the real env over ZeroMQ: a ROUTER for each listening port, a DEALER for each connected one.
 *
 * A peer is the routing id that the ROUTER itself gives to a connection (five bytes: 0 and a counter), so
 * it needs no table and dies with the connection. Messages of peers that chose an id are dropped: none of
 * ours does.
 *
 * Window: ROUTER drops silently at its high-water mark, and a mark counts messages, not bytes. So the
 * marks are far above what we let wait, and what waits is bounded here, in bytes per peer. A window is
 * shared by the loop (which adds) and ZeroMQ's thread (which subtracts as it frees frames); it is counted.
 *
 * ZeroMQ's descriptor is edge-triggered, and a send may swallow the edge of a message that came in. So
 * a port that was sent on is dirty until a read has seen EAGAIN.
 */
#include <netdb.h>
#include <string.h>
#include <sys/socket.h>
#include <uthash.h>
#include <zmq.h>

#include "common/log.h"
#include "common/os_env_impl.h"

#define MARK_SEND 16384              /* messages per peer; the window binds long before */
#define MARK_RECV 128                /* messages per peer read ahead of us; then TCP pushes back */
#define MSG_BYTES_MAX (64ll << 20)   /* of a frame; a larger one costs the peer its connection */
#define COPY_MAX 1024                /* frames up to this are copied: cheaper than shared ownership */
#define HELD_MAX 64                  /* messages held for the first connection */
#define WINDOWS_SWEEP 1024           /* idle windows of a listening port are dropped at this number */
#define CONNECT_TIMEOUT_MS 2000
#define HANDSHAKE_TIMEOUT_MS 5000    /* of a peer that accepts but does not speak (stopped) */
#define SILENCE_MS_MAX 15000         /* unacknowledged bytes: give the connection up */
#define PEER_TAG (UINT64_C(1) << 32) /* keeps a peer from being 0 */
#define ROUTING_ID_LEN 5

/* Bytes handed to ZeroMQ for one peer and not yet freed by it. */
struct window {
    uint64_t peer;
    atomic_uint refs;
    atomic_uint_fast64_t bytes;
    UT_hash_handle hh;
};

/* A frame that ZeroMQ borrows from a buffer. */
struct lent_frame {
    struct buf *buf;
    struct window *window;
};

/* A received frame: the buffer and the message it lives in, in one allocation. */
struct msg_buf {
    struct buf buf;
    zmq_msg_t msg;
};

struct held_msg {
    struct buf *head, *payload;
};

struct os_port {
    struct net_port base;
    void *socket;
    int fd;
    bool router;
    bool dirty;
    bool closed;
    net_on_msg_fn *fn;
    void *arg;
    struct msg_buf *spare; /* the next frame to receive into */
    char endpoint[256];
    struct window *windows; /* ROUTER: hash by peer. DEALER: its only one, not hashed */
    struct held_msg held[HELD_MAX];
    uint32_t n_held;
    uint64_t hold_until;
};

static struct os_port *port_of(struct net_port *p)
{
    return container_of(p, struct os_port, base);
}

/* ---- windows ---------------------------------------------------------------------------------- */

static struct window *window_new(uint64_t peer)
{
    struct window *w = tc_calloc(1, sizeof *w);

    w->peer = peer;
    atomic_init(&w->refs, 1);
    return w;
}

static void window_unref(struct window *w)
{
    if (w && atomic_fetch_sub(&w->refs, 1) == 1)
        free(w);
}

static void windows_sweep(struct os_port *p)
{
    struct window *w, *next;

    HASH_ITER(hh, p->windows, w, next)
    {
        if (atomic_load(&w->bytes) == 0) {
            HASH_DEL(p->windows, w);
            window_unref(w);
        }
    }
}

static struct window *window_of(struct os_port *p, uint64_t peer)
{
    struct window *w = p->windows;

    if (!p->router)
        return w;
    HASH_FIND(hh, p->windows, &peer, sizeof peer, w);
    if (w)
        return w;
    if (HASH_COUNT(p->windows) >= WINDOWS_SWEEP)
        windows_sweep(p);
    w = window_new(peer);
    HASH_ADD(hh, p->windows, peer, sizeof w->peer, w);
    return w;
}

/* ---- sending ---------------------------------------------------------------------------------- */

/* On ZeroMQ's thread, or on ours if a send failed. */
static void lent_free(void *data TC_UNUSED, void *hint)
{
    struct lent_frame *l = hint;

    atomic_fetch_sub(&l->window->bytes, l->buf->len);
    window_unref(l->window);
    buf_unref(l->buf);
    free(l);
}

/* Make a frame of @b. Borrows @b (takes a reference if it lends it). */
static void frame_init(zmq_msg_t *m, struct buf *b, struct window *w)
{
    struct lent_frame *l;
    int r;

    if (b->len <= COPY_MAX) {
        r = zmq_msg_init_size(m, b->len);
        ASSERT(r == 0);
        if (b->len > 0)
            memcpy(zmq_msg_data(m), b->data, b->len);
        return;
    }
    l = tc_malloc(sizeof *l);
    l->buf = buf_ref(b);
    l->window = w;
    atomic_fetch_add(&w->refs, 1);
    atomic_fetch_add(&w->bytes, b->len);
    r = zmq_msg_init_data(m, b->data, b->len, lent_free, l);
    ASSERT(r == 0);
}

static int frame_send(struct os_port *p, struct buf *b, struct window *w, int flags)
{
    zmq_msg_t m;
    int r = 0;

    frame_init(&m, b, w);
    if (zmq_msg_send(&m, p->socket, ZMQ_DONTWAIT | flags) < 0) {
        r = -zmq_errno();
        (void)zmq_msg_close(&m);
    }
    return r;
}

static int send_frames(struct os_port *p, struct window *w, struct buf *head, struct buf *payload)
{
    int r = frame_send(p, head, w, payload ? ZMQ_SNDMORE : 0);

    if (r == 0 && payload)
        r = frame_send(p, payload, w, 0);
    return r;
}

static bool can_send(struct os_port *p)
{
    int events = 0;
    size_t len = sizeof events;

    p->dirty = true; /* this may swallow an edge */
    return zmq_getsockopt(p->socket, ZMQ_EVENTS, &events, &len) == 0 && (events & ZMQ_POLLOUT);
}

static void held_drop(struct os_port *p)
{
    for (uint32_t i = 0; i < p->n_held; i++) {
        buf_unref(p->held[i].head);
        buf_unref(p->held[i].payload);
    }
    p->n_held = 0;
}

/* The first connection stands: send what waited for it. */
static void held_flush(struct os_port *p)
{
    bool expired = env_now(p->base.env) >= p->hold_until;

    if (!expired && !can_send(p))
        return;
    for (uint32_t i = 0; i < p->n_held && !expired; i++)
        (void)send_frames(p, p->windows, p->held[i].head, p->held[i].payload);
    held_drop(p);
}

/* Keep a message for the connection being made. False: that time is over. */
static bool held_add(struct os_port *p, struct buf *head, struct buf *payload)
{
    if (p->n_held == HELD_MAX || env_now(p->base.env) >= p->hold_until)
        return false;
    p->held[p->n_held++] = (struct held_msg){buf_ref(head), payload ? buf_ref(payload) : NULL};
    return true;
}

static int dealer_send(struct os_port *p, struct buf *head, struct buf *payload)
{
    int r;

    if (p->n_held > 0) { /* keep the order */
        held_flush(p);
        if (p->n_held > 0)
            return held_add(p, head, payload) ? 0 : -TC_E_UNREACHABLE;
    }
    r = send_frames(p, p->windows, head, payload);
    if (r == -EAGAIN && can_send(p)) /* ZeroMQ had not looked at its new connection yet */
        r = send_frames(p, p->windows, head, payload);
    if (r == 0)
        p->hold_until = 0;
    if (r == 0 || held_add(p, head, payload))
        return 0;
    return -TC_E_UNREACHABLE;
}

static int router_send(struct os_port *p, uint64_t peer, struct window *w, struct buf *head,
                       struct buf *payload)
{
    uint32_t id = (uint32_t)peer;
    uint8_t routing_id[ROUTING_ID_LEN] = {0};

    if ((peer & ~(uint64_t)UINT32_MAX) != PEER_TAG)
        return -TC_E_UNREACHABLE;
    memcpy(routing_id + 1, &id, sizeof id);
    if (zmq_send(p->socket, routing_id, sizeof routing_id, ZMQ_DONTWAIT | ZMQ_SNDMORE) < 0)
        return zmq_errno() == EAGAIN ? -TC_E_BACKPRESSURE : -TC_E_UNREACHABLE;
    return send_frames(p, w, head, payload) < 0 ? -TC_E_UNREACHABLE : 0;
}

int os_net_send(struct net_port *np, uint64_t peer, struct buf *head, struct buf *payload)
{
    struct os_port *p = port_of(np);
    struct window *w;
    int r;

    ASSERT(head);
    if (p->closed) {
        r = -TC_E_UNREACHABLE;
    } else {
        p->dirty = true;
        w = window_of(p, peer);
        if (atomic_load(&w->bytes) >= os_env_of(np->env)->opt.window_bytes)
            r = -TC_E_BACKPRESSURE;
        else if (p->router)
            r = router_send(p, peer, w, head, payload);
        else
            r = dealer_send(p, head, payload);
    }
    buf_unref(head);
    buf_unref(payload);
    return r;
}

/* ---- receiving -------------------------------------------------------------------------------- */

static void msg_buf_release(struct buf *b)
{
    (void)zmq_msg_close(&container_of(b, struct msg_buf, buf)->msg);
}

/* Receive a frame. NULL: none (EAGAIN). Returns: caller drops with buf_unref(). */
static struct buf *frame_recv(struct os_port *p, bool *ret_more)
{
    struct msg_buf *mb = p->spare;

    if (!mb) {
        mb = tc_malloc(sizeof *mb);
        (void)zmq_msg_init(&mb->msg);
        p->spare = mb;
    }
    if (zmq_msg_recv(&mb->msg, p->socket, ZMQ_DONTWAIT) < 0)
        return NULL;
    p->spare = NULL;
    atomic_init(&mb->buf.refs, 1);
    mb->buf.data = zmq_msg_data(&mb->msg);
    mb->buf.len = mb->buf.cap = (uint32_t)zmq_msg_size(&mb->msg);
    mb->buf.free_fn = msg_buf_release;
    mb->buf.arg = NULL;
    *ret_more = zmq_msg_more(&mb->msg);
    return &mb->buf;
}

static void spare_free(struct os_port *p)
{
    if (p->spare) {
        (void)zmq_msg_close(&p->spare->msg);
        free(p->spare);
        p->spare = NULL;
    }
}

/* The ROUTER's first frame. False: nothing there. *ret_peer is 0 for an id that is not the ROUTER's. */
static bool recv_peer(struct os_port *p, uint64_t *ret_peer, bool *ret_more)
{
    uint8_t id[256];
    int n = zmq_recv(p->socket, id, sizeof id, ZMQ_DONTWAIT);
    uint32_t x;
    size_t len = sizeof *ret_more;
    int more = 0;

    if (n < 0)
        return false;
    len = sizeof more;
    (void)zmq_getsockopt(p->socket, ZMQ_RCVMORE, &more, &len);
    *ret_more = more;
    *ret_peer = 0;
    if (n == ROUTING_ID_LEN && id[0] == 0) {
        memcpy(&x, id + 1, sizeof x);
        *ret_peer = PEER_TAG | x;
    }
    return true;
}

/*
 * With messages held, after a receive that found none: it may have swallowed the edge that told of the
 * connection. True: read again, an edge of this look may be lost, too.
 */
static bool held_look(struct os_port *p)
{
    int events = 0;
    size_t len = sizeof events;

    if (zmq_getsockopt(p->socket, ZMQ_EVENTS, &events, &len) != 0)
        return false;
    if (events & ZMQ_POLLOUT)
        held_flush(p);
    else if (env_now(p->base.env) >= p->hold_until)
        held_drop(p);
    return events != 0;
}

/* Receive and deliver one message. False: none there. */
static bool read_one(struct os_port *p)
{
    struct buf *head, *payload = NULL;
    uint64_t peer = 0;
    bool more = true, extra;

    if (p->router && !recv_peer(p, &peer, &more))
        return false;
    head = more ? frame_recv(p, &more) : NULL;
    if (!head)
        return p->router; /* a lone routing id: skip it */
    if (more)
        payload = frame_recv(p, &more);
    extra = more;
    while (more) {
        struct buf *b = frame_recv(p, &more);

        if (!b)
            break;
        buf_unref(b);
    }
    if (extra || (p->router && peer == 0)) {
        LOG_WARN("net", "message of an unknown kind, dropped", "endpoint=%s", p->endpoint);
    } else {
        os_env_of(p->base.env)->now_valid = false;
        p->fn(p->arg, peer, head, payload);
    }
    buf_unref(head);
    buf_unref(payload);
    return true;
}

void os_port_read(struct os_port *p)
{
    if (p->closed)
        return;
    for (int i = 0; i < OS_ENV_MSGS_PER_TURN && !p->closed; i++) {
        if (!read_one(p)) {
            p->dirty = p->n_held > 0 && held_look(p);
            return;
        }
    }
    p->dirty = true;
}

int os_port_fd(const struct os_port *p)
{
    return p->fd;
}

bool os_port_dirty(const struct os_port *p)
{
    return p->dirty && !p->closed;
}

/* ---- opening and closing ---------------------------------------------------------------------- */

static int zmq_error(void)
{
    int e = zmq_errno();

    return e == ENODEV || e == EADDRNOTAVAIL ? -TC_E_NXIO : tc_error_from_errno(e);
}

static void set_int(void *socket, int option, int value)
{
    int r = zmq_setsockopt(socket, option, &value, sizeof value);

    ASSERT(r == 0);
}

static void set_options(struct os_env *e, struct os_port *p)
{
    int64_t max = MSG_BYTES_MAX;
    int r = zmq_setsockopt(p->socket, ZMQ_MAXMSGSIZE, &max, sizeof max);

    ASSERT(r == 0);
    set_int(p->socket, ZMQ_LINGER, 0);
    set_int(p->socket, ZMQ_SNDHWM, MARK_SEND);
    set_int(p->socket, ZMQ_RCVHWM, MARK_RECV);
    set_int(p->socket, ZMQ_HANDSHAKE_IVL, HANDSHAKE_TIMEOUT_MS);
    set_int(p->socket, ZMQ_TCP_MAXRT, SILENCE_MS_MAX);
    set_int(p->socket, ZMQ_TCP_KEEPALIVE, 1);
    set_int(p->socket, ZMQ_TCP_KEEPALIVE_IDLE, 10);
    set_int(p->socket, ZMQ_TCP_KEEPALIVE_INTVL, 3);
    set_int(p->socket, ZMQ_TCP_KEEPALIVE_CNT, 3);
    if (strchr(p->endpoint, '['))
        set_int(p->socket, ZMQ_IPV6, 1);
    if (p->router) {
        set_int(p->socket, ZMQ_ROUTER_MANDATORY, 1);
        set_int(p->socket, ZMQ_BACKLOG, 512);
    } else {
        set_int(p->socket, ZMQ_IMMEDIATE, 1);
        set_int(p->socket, ZMQ_CONNECT_TIMEOUT, CONNECT_TIMEOUT_MS);
        set_int(p->socket, ZMQ_RECONNECT_IVL, (int)e->opt.reconnect_ms);
        set_int(p->socket, ZMQ_RECONNECT_IVL_MAX, (int)e->opt.reconnect_ms_max);
    }
}

static void port_free(struct os_port *p)
{
    struct window *w, *next;

    if (p->socket)
        (void)zmq_close(p->socket);
    held_drop(p);
    spare_free(p);
    if (p->router) {
        HASH_ITER(hh, p->windows, w, next)
        {
            HASH_DEL(p->windows, w);
            window_unref(w);
        }
    } else {
        window_unref(p->windows);
    }
    free(p);
}

static int port_new(struct os_env *e, bool router, const char *endpoint, net_on_msg_fn *fn,
                    void *arg, struct os_port **ret_port)
{
    struct os_port *p;
    size_t len;

    if (strlen(endpoint) >= sizeof p->endpoint)
        return -TC_E_INVAL;
    p = tc_calloc(1, sizeof *p);
    p->base.env = &e->base;
    p->router = router;
    p->fn = fn;
    p->arg = arg;
    p->dirty = true;
    strcpy(p->endpoint, endpoint);
    p->socket = zmq_socket(e->zmq, router ? ZMQ_ROUTER : ZMQ_DEALER);
    if (!p->socket) {
        int r = zmq_error();

        port_free(p);
        return r;
    }
    set_options(e, p);
    len = sizeof p->fd;
    (void)zmq_getsockopt(p->socket, ZMQ_FD, &p->fd, &len);
    *ret_port = p;
    return 0;
}

static void port_add(struct os_env *e, struct os_port *p)
{
    if (e->n_ports == e->cap_ports) {
        e->cap_ports = MAX(e->cap_ports * 2, (size_t)8);
        e->ports = tc_realloc(e->ports, e->cap_ports * sizeof(struct os_port *));
    }
    e->ports[e->n_ports++] = p;
    e->polls_stale = true;
}

/* ZeroMQ binds to addresses, not to names: look the name up. Fills @out ("tcp://1.2.3.4:5"). */
static int bind_address(const char *endpoint, char *out, size_t cap)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    char host[256], numeric[256];
    const char *start = endpoint + strlen("tcp://"), *colon = strrchr(endpoint, ':');
    int r;

    if (strncmp(endpoint, "tcp://", 6) != 0 || !colon || colon <= start ||
        (size_t)(colon - start) >= sizeof host)
        return -TC_E_INVAL;
    snprintf(out, cap, "%s", endpoint);
    if (*start == '*' || *start == '[')
        return 0;
    snprintf(host, sizeof host, "%.*s", (int)(colon - start), start);
    if (getaddrinfo(host, NULL, &hints, &found) != 0)
        return -TC_E_NXIO;
    r = getnameinfo(found->ai_addr, found->ai_addrlen, numeric, sizeof numeric, NULL, 0,
                    NI_NUMERICHOST);
    if (r == 0)
        snprintf(out, cap, found->ai_family == AF_INET6 ? "tcp://[%s]%s" : "tcp://%s%s", numeric,
                 colon);
    freeaddrinfo(found);
    return r == 0 ? 0 : -TC_E_NXIO;
}

int os_net_listen(struct env *env, const char *endpoint, net_on_msg_fn *fn, void *arg,
                  struct net_port **ret_port)
{
    struct os_env *e = os_env_of(env);
    struct os_port *p = NULL;
    char address[600];
    size_t len;
    int r = bind_address(endpoint, address, sizeof address);

    if (r == 0)
        r = port_new(e, true, address, fn, arg, &p);
    if (r < 0)
        return r;
    if (zmq_bind(p->socket, address) < 0) {
        r = zmq_error();
        port_free(p);
        return r;
    }
    len = sizeof p->endpoint;
    (void)zmq_getsockopt(p->socket, ZMQ_LAST_ENDPOINT, p->endpoint, &len);
    port_add(e, p);
    *ret_port = &p->base;
    return 0;
}

int os_net_connect(struct env *env, const char *endpoint, net_on_msg_fn *fn, void *arg,
                   struct net_port **ret_port)
{
    struct os_env *e = os_env_of(env);
    struct os_port *p = NULL;
    int r = port_new(e, false, endpoint, fn, arg, &p);

    if (r < 0)
        return r;
    p->windows = window_new(0);
    e->now_valid = false;
    p->hold_until = env_now(env) + OS_ENV_HOLD_MS * NS_PER_MS;
    if (zmq_connect(p->socket, endpoint) < 0) {
        r = zmq_error();
        port_free(p);
        return r;
    }
    port_add(e, p);
    *ret_port = &p->base;
    return 0;
}

void os_net_close(struct net_port *np)
{
    struct os_port *p = port_of(np);

    ASSERT(!p->closed);
    p->closed = true;
    os_env_of(np->env)->polls_stale = true;
}

void os_net_sweep(struct os_env *e)
{
    size_t n = 0;

    for (size_t i = 0; i < e->n_ports; i++) {
        if (e->ports[i]->closed)
            port_free(e->ports[i]);
        else
            e->ports[n++] = e->ports[i];
    }
    e->n_ports = n;
}

const char *os_env_endpoint(struct net_port *np)
{
    return port_of(np)->endpoint;
}

int os_net_init(struct os_env *e)
{
    e->zmq = zmq_ctx_new();
    return e->zmq ? 0 : tc_error_from_errno(zmq_errno());
}

void os_net_fini(struct os_env *e)
{
    for (size_t i = 0; i < e->n_ports; i++)
        port_free(e->ports[i]);
    free(e->ports);
    e->ports = NULL;
    e->n_ports = 0;
    if (e->zmq)
        (void)zmq_ctx_term(e->zmq);
}
