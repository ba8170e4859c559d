/* The first steps of async handlers, which one emission takes one after another. */
#ifndef AEB_STARTER_H
#define AEB_STARTER_H

#include "handler_task.h"

/* What starts the async handlers of one emission. */
typedef struct aeb_starter {
    aeb_state *state;
    aeb_bus *bus; /* borrowed, like all up to `fatal` */
    PyObject *loop;
    aeb_occasion *occasion; /* NULL where there are only prepared deliveries */
    PyObject *owner;        /* the emission */
    /* Makes a delivery the owner's.  After that `keep` follows once it has been started: 0 or -1. */
    void (*adopt)(PyObject *owner, aeb_handler_task *delivery);
    int (*keep)(PyObject *owner, aeb_handler_task *delivery);
    PyObject **fatal; /* the owner's error, or NULL: once it is set nothing more is started */

    Py_ssize_t first;  /* where in the plan to begin */
    bool wanted;       /* the condition of the first one has been asked, and says yes */
    bool nested;       /* see aeb_dispatch_enter(): of this thread, in which conditions are asked */
    bool exempt;       /* its handlers need no permit: see permit.c; false after the beginning */
    Py_ssize_t n_over; /* handlers that were called and are over, without ever being a delivery */

    Py_hash_t loop_hash;
    PyObject *outer; /* strong: the task that emits, or NULL */
    PyObject *task;  /* strong: the current task while handlers are started, or NULL */
    struct aeb_task_fields *fields; /* of `task` */
    Py_ssize_t references; /* to a task that stands as the current one and that nobody else has */
    bool lazy;             /* handlers start under tasks of lazy_task.c */
    bool untracked;        /* see aeb_handler_task_current() */
    bool spent;            /* `task` has got its delivery: the next one needs another */
    PyObject *unchanged; /* strong: a copy of the emitter's context for the next handler, or NULL */

    /* The handler whose first step runs without a delivery, until it needs one. */
    const aeb_plan_entry *entry; /* NULL: none */
    PyObject *coro;              /* borrowed */
    PyObject *context;           /* borrowed */
    aeb_handler_task *delivery;  /* strong: what has been made for it, or NULL */
    aeb_subscription *measured;  /* borrowed from the plan: whose it is, if it is timed, or NULL */
    uint64_t clock; /* when that was called, or the last one was over; 0: neither is known */
} aeb_starter;

/* Begins in the running loop, with the fields up to `fatal` set; aeb_starter_end() must follow unless
 * this fails.  0 or -1. */
int aeb_starter_begin(aeb_starter *starter);

/* Starts the async handlers of a plan and the awaitables that sync ones returned (`late`, see
 * aeb_dispatch_sync; may be NULL), in their common order.  Each takes its first step at once, unless
 * the loop has its own task factory or the handler has to wait for a permit.  0, or -1 with an error
 * when one could not be made. */
int aeb_starter_start_plan(aeb_starter *starter, aeb_plan *plan, PyObject *late);

/* The same for a list of deliveries. */
int aeb_starter_start_prepared(aeb_starter *starter, PyObject *deliveries);

/* Puts things back as they were.  A pending exception, which there is when `raised`, stays. */
void aeb_starter_end(aeb_starter *starter, bool raised);

/* Starts a delivery by itself, in the running loop, which is its own.  0 or -1, as for
 * aeb_handler_task_start(). */
int aeb_starter_start_alone(aeb_handler_task *delivery);

/* Makes the delivery of the handler whose first step is running without one; nothing where there is
 * none.  0 or -1. */
int aeb_starter_make_delivery(aeb_starter *starter);

#endif
