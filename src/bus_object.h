/* The layout of an EventBus: one section for each room that keeps something in it.
 *
 * A room changes its own section only.  What a bus does lives in bus.c.
 */
#ifndef AEB_BUS_OBJECT_H
#define AEB_BUS_OBJECT_H

#include "state.h"

typedef struct aeb_bus {
    PyObject_HEAD
    aeb_state *state;
    PyObject *module; /* keeps the state, even in a collection that clears our type first */

    /* registry.c */
    PyObject *lists; /* dict: aeb_key_listed() -> list of Subscription, by (priority, id) */
    struct aeb_patterns *patterns;  /* the keys of `lists` that are patterns; NULL: none */
    AEB_SHARED Py_ssize_t n_active; /* subscriptions that are active */
    int64_t last_id;

    /* plan_cache.c */
    PyObject *plans;        /* dict: event name -> Plan */
    uint64_t plans_version; /* goes up before any list is changed or any plan let go */
    Py_ssize_t n_any_plans; /* of names that nobody subscribed to exactly */
    Py_ssize_t any_cost;    /* what these take, in entries */
    PyObject *class_plans;  /* dict: address of a class -> Plan */
    PyObject *class_names;  /* dict used as a set: the event names of these */
    Py_ssize_t class_cost;  /* what they take, in entries */

    /* counter.c */
    PyObject *counters;       /* dict: event name -> Counter */
    PyObject *shared_counter; /* the Counter of names without their own, or NULL */
    bool counters_full;       /* there is nothing among them to be let go */

    /* schema.c */
    PyObject *schemas; /* dict: name of a declared event -> (schema, checker), or NULL */
    bool strict;       /* events that are not in it are refused */

    /* bus_init.c, from the options that concern every plan */
    unsigned plan_flags; /* aeb_plan_flag: what all plans of this bus have */

    /* history.c */
    PyObject **history;          /* owned ring of Events, or NULL */
    Py_ssize_t history_limit;    /* how many are kept; 0: none */
    Py_ssize_t history_capacity; /* how many there is room for so far */
    Py_ssize_t history_size;     /* how many there are */
    Py_ssize_t history_oldest;   /* where the oldest one is; 0 until the ring is full */

    /* stats.c reads these; each is counted where it happens */
    AEB_SHARED uint64_t n_delivered; /* handlers called */
    AEB_SHARED uint64_t n_failed;    /* those that raised an Exception */
    AEB_SHARED uint64_t n_cancelled; /* deliveries that ended cancelled, but not by their timeout */
    AEB_SHARED uint64_t n_timed_out; /* deliveries that reached their timeout */

    /* timing.c */
    bool timing;                     /* latencies are kept */
    double slow_after;               /* seconds that routing an event may take; 0: any */
    struct aeb_latencies *latencies; /* owned, or NULL before there is one */

    /* report.c */
    PyObject *logger;   /* NULL: the logger "agent_event_bus" */
    PyObject *on_error; /* NULL: none */

    /* schedule.c */
    PyObject *loop;                /* the bound loop, or NULL */
    PyObject *pending;             /* dict used as an ordered set of HandlerTask, or NULL */
    Py_ssize_t n_parked;           /* pending ones that wait for the others themselves */
    PyObject *empty_callbacks;     /* list of what to call when nothing is pending, or NULL */
    PyObject *idle_callbacks;      /* the same for when only parked ones are */
    long pending_pid;              /* the process that scheduled them */
    Py_ssize_t max_pending;        /* how many may be pending; 0: any number */
    AEB_SHARED uint64_t n_dropped; /* deliveries that max_pending has prevented */
    uint64_t n_dropped_known;      /* those that a warning has told of */
    double drop_warned_at;         /* when, in aeb_monotonic() seconds; 0: never */

    /* handler_task.c */
    double handler_timeout; /* seconds, for subscriptions without their own; 0: none */

    /* permit.c */
    Py_ssize_t max_concurrency;  /* async handlers that may run at once; 0: any number */
    Py_ssize_t n_permits;        /* how many are running */
    AEB_SHARED long permits_pid; /* the process that they run in */
    Py_ssize_t n_starting;       /* those that were queued, and whose loop has yet to start them */
    bool handing_out;            /* somebody starts those that wait for one, in order */
    struct aeb_handler_task *first_running; /* those that have one, or NULL; borrowed */
    struct aeb_handler_task *first_queued;  /* those that wait for a permit, or NULL; strong */
    struct aeb_handler_task *last_queued;

    /* bus.c */
    PyObject *name;          /* str or None */
    AEB_SHARED uint64_t seq; /* number of the last event */
    AEB_SHARED bool closed;
    bool async_only;
    AEB_SHARED bool
        emit_barred; /* either of these: emit() has nothing to deliver, see aeb_emit_barred() */
    AEB_SHARED bool closed_warned;
    PyObject *weakrefs;
} aeb_bus;

/* What a field of a bus refers to, a new reference, or NULL. */
static inline PyObject *
aeb_bus_get(aeb_bus *bus, PyObject *const *field)
{
    PyObject *value;
    AEB_LOCK(bus);
    value = Py_XNewRef(*field);
    AEB_UNLOCK();
    return value;
}

/* Makes a field of a bus refer to something else, or to nothing. */
static inline void
aeb_bus_set(aeb_bus *bus, PyObject **field, PyObject *value)
{
    PyObject *before;
    AEB_LOCK(bus);
    before = *field;
    *field = Py_XNewRef(value);
    AEB_UNLOCK();
    Py_XDECREF(before);
}

#endif
