/* The coroutine that one async delivery runs as, and the task that drives it. */
#ifndef AEB_HANDLER_TASK_H
#define AEB_HANDLER_TASK_H

#include "bus_object.h"
#include "dispatch.h"
#include "registry.h"

typedef enum {
    AEB_HANDLER_NEW,       /* not started */
    AEB_HANDLER_RUNNING,   /* its code is on the stack */
    AEB_HANDLER_SUSPENDED, /* waiting for something */
    AEB_HANDLER_DONE,
} aeb_handler_status;

struct aeb_handler_task;

/* Tells the owner that a delivery is over, and never raises.  `fatal` (borrowed, or NULL) is an
 * error that must not be isolated; true when the owner raises it, false when the task shall. */
typedef bool (*aeb_settled)(struct aeb_handler_task *self, PyObject *fatal);

typedef struct aeb_handler_task {
    PyObject_HEAD
    aeb_state *state;      /* borrowed: our type keeps it alive */
    aeb_bus *bus;          /* strong; NULL once it is over */
    aeb_subscription *sub; /* strong */
    aeb_form form;
    PyObject *name;
    PyObject *payload;
    PyObject *event;     /* the Event when the form needs one, else NULL */
    PyObject *awaitable; /* what the handler returned, until it is started */
    PyObject *inner;     /* the iterator that is being driven */
    PyObject *context;   /* entered around each step where tasks cannot be given one (3.9, 3.10);
                          * while queued, what it will be started in */
    PyObject *yielded;   /* what the first step yielded, until the task takes a step itself */
    PyObject *failure;   /* why the handler failed, until the task has been told */
    struct aeb_outcome *outcome; /* strong: what collects how it ends, or NULL */
    PyObject *loop;
    PyObject *timer; /* the handle of its timeout, while that is armed */
    PyObject *task;
    struct aeb_handler_task *parent; /* strong: the delivery whose handler emitted, or NULL */
    PyObject *owner;                 /* strong, or NULL: for `settled` */
    aeb_settled settled;
    uint64_t began; /* when its handler was called, in aeb_monotonic_ns(); 0: it is not measured */
    uint64_t took;  /* nanoseconds: what its handler took before it was a delivery, then in all */
    Py_ssize_t depth; /* of handlers awaiting emissions of handlers, from 1 */
    AEB_SHARED aeb_handler_status status;
    bool nested;    /* see aeb_dispatch_enter() */
    bool lazy;      /* its task is one of lazy_task.c */
    bool untracked; /* need not be in its handler's context: see handler_start.c */
    bool live;      /* counted in state->n_live */
    bool called;    /* its handler has been called by this object */
    AEB_SHARED bool cancel_requested; /* by the bus itself, so it is no news */
    bool finished_early;              /* in the early first step; the task has yet to learn it */
    bool ended_cancelled;
    bool failed;    /* the handler raised, and that has been reported */
    bool timed_out; /* its task was cancelled by its timeout */
    bool queued;    /* in the queue of permit.c */
    bool starting;  /* it was, and has a permit now, and its loop is to start it */
    /* Its neighbours there, or among those that have a permit. */
    struct aeb_handler_task *queue_before, *queue_after; /* borrowed, or NULL */
    long permit;       /* the process in which it has a permit of its bus; 0: none */
    Py_ssize_t parked; /* how often, see schedule.c */
    PyObject *weakrefs;
} aeb_handler_task;

/* Threads.  Who has found a delivery new or suspended, under its lock, and made it running, has it for
 * himself, and needs the lock only for what others look at or set meanwhile: `status`, `task`, `loop`,
 * `parent`, `cancel_requested`.  What concerns queues and permits (`queued` to `permit`, and `parked`)
 * is guarded by the lock of the bus. */

/* Whether it is over, as far as another thread can know. */
#define AEB_IS_OVER(delivery) (AEB_LOAD((delivery)->status) == AEB_HANDLER_DONE)

/* Makes a delivery that can go on, or begin, the caller's.  Whether it was new is in *begins.  False when
 * it runs, or is over. */
static inline bool
aeb_handler_task_claim_locked(aeb_handler_task *self, bool *begins)
{
    aeb_handler_status status = AEB_LOAD(self->status);
    *begins = status == AEB_HANDLER_NEW;
    if (status != AEB_HANDLER_NEW && status != AEB_HANDLER_SUSPENDED) {
        return false;
    }
    AEB_STORE(self->status, AEB_HANDLER_RUNNING);
    return true;
}

/* The delivery whose handler emitted, a new reference, or NULL. */
static inline aeb_handler_task *
aeb_handler_task_parent(aeb_handler_task *self)
{
    PyObject *parent;
    AEB_LOCK(self);
    parent = Py_XNewRef((PyObject *)self->parent);
    AEB_UNLOCK();
    return (aeb_handler_task *)parent;
}

int aeb_handler_task_init_type(PyObject *module, aeb_state *state);

/* A delivery that has not started.  `awaitable` is what the handler returned when it was called as
 * a sync one, else NULL. */
aeb_handler_task *aeb_handler_task_new(aeb_bus *bus, const aeb_plan_entry *entry,
                                       aeb_occasion *occasion, PyObject *awaitable);

/* A coroutine that is over. */
aeb_handler_task *aeb_handler_task_new_idle(aeb_state *state);

/* Lets go of a delivery; one that is over and that nobody else has is kept for reuse. */
void aeb_handler_task_release(aeb_handler_task *self_steal);

/* Forgets what is kept for reuse. */
void aeb_handler_task_forget(aeb_state *state);

/* Where a walk over the async deliveries of a plan stands. */
typedef struct {
    Py_ssize_t next_entry; /* in the plan; begins at n_sync */
    Py_ssize_t next_late;
    aeb_bus *bus; /* borrowed, as what follows */
    aeb_occasion *occasion;
    bool nested;         /* see aeb_dispatch_enter() */
    bool guarded;        /* see aeb_admit() */
    bool skip_offloaded; /* which have been called already */
    bool wanted;         /* the condition of the next one has been asked, and says yes */
    bool asked;          /* there was a condition to look at since this was last cleared */
    bool failed;         /* the walk has ended with an error, which is set */
    uint64_t took;       /* nanoseconds, the sync part of the one that an awaitable is from */
} aeb_async_cursor;

/* aeb_next_entry() where there is more to look at than the plan. */
const aeb_plan_entry *aeb_next_entry_of_both(aeb_plan *plan, PyObject *late,
                                             aeb_async_cursor *cursor, PyObject **awaitable);

/* The next async handler of an emission, claimed: those of the plan and the awaitables that sync
 * ones returned (`late`, see aeb_dispatch_sync; may be NULL), in their common order.  NULL at the
 * end, or with cursor->failed; *awaitable is borrowed from `late`, or NULL for a handler that is
 * still to be called. */
static inline const aeb_plan_entry *
aeb_next_entry(aeb_plan *plan, PyObject *late, aeb_async_cursor *cursor, PyObject **awaitable)
{
    if (AEB_UNLIKELY(late != NULL || cursor->skip_offloaded || plan->flags & AEB_PLAN_CAREFUL)) {
        return aeb_next_entry_of_both(plan, late, cursor, awaitable);
    }
    *awaitable = NULL;
    while (cursor->next_entry < plan->n_entries) {
        const aeb_plan_entry *entry = &plan->entries[cursor->next_entry++];
        if (AEB_LIKELY(aeb_registry_claim(entry->sub))) {
            return entry;
        }
    }
    return NULL;
}

/* The same as a delivery: 1 with a new reference in *delivery, 0 at the end, -1. */
int aeb_next_delivery(aeb_plan *plan, PyObject *late, aeb_async_cursor *cursor,
                      aeb_handler_task **delivery);

/* Closes the awaitables of `late` from index `i` on, which will not be started.  Never raises. */
void aeb_close_late(aeb_state *state, PyObject *late, Py_ssize_t i);

/* Gives it a task of `loop` that begins in a later turn.  An Exception on the way is the handler's
 * failure.  0, or -1 with an error that must propagate and that the owner has not taken. */
int aeb_handler_task_start(aeb_handler_task *self, PyObject *loop);

/* The same, and where tasks can be eager (3.12) it takes its first step before this returns. */
int aeb_handler_task_start_eagerly(aeb_handler_task *self, PyObject *loop);

/* Asks its task to cancel, in the loop's own thread.  Never raises. */
void aeb_handler_task_cancel(aeb_handler_task *self);

/* Ends it without running it any further.  0 or -1. */
int aeb_handler_task_close(aeb_handler_task *self);

/* Forgets its owner and its task's destiny: the process that would have run it is not this one. */
void aeb_handler_task_abandon(aeb_handler_task *self);

/* Ends the delivery and tells its owner; true if that takes the fatal error (borrowed or NULL). */
bool aeb_handler_task_settle(aeb_handler_task *self, PyObject *fatal);

/* The handler has returned, or ended with the pending exception, which is isolated or left for the task
 * to raise.  *result is what its step answers. */
PySendResult aeb_handler_task_returned(aeb_handler_task *self, PyObject **result);
PySendResult aeb_handler_task_raised(aeb_handler_task *self, PyObject **result);

/* What follows a step: `sent` and *result are how it ended, and so they are afterwards. */
PySendResult aeb_handler_task_stepped(aeb_handler_task *self, PySendResult sent, PyObject **result);

/* What send() and throw() do: a step, or where there is none to take, what the task has not been told
 * yet. */
PySendResult aeb_handler_task_send(aeb_handler_task *self, PyObject *value, PyObject **result);
PySendResult aeb_handler_task_throw(aeb_handler_task *self, PyObject *exc, PyObject **result);

/* Fails it with the pending exception, before it was started.  0 or -1, as for starting it. */
int aeb_handler_task_fail(aeb_handler_task *self);

/* The unfinished delivery whose handler the calling code belongs to, also in the tasks that it has
 * made: a new reference in *found, or NULL.  `task` is the current task of the running loop, when
 * the caller knows it, else NULL.  0 or -1. */
int aeb_handler_task_current(aeb_state *state, PyObject *task, aeb_handler_task **found);

/* Whether the calling code belongs to an unfinished async handler: 1, 0 or -1. */
int aeb_handler_task_inside(aeb_state *state);

/* How many handlers certainly or possibly wait in a row above an emission whose emitter has been
 * looked for with aeb_handler_task_current(). */
Py_ssize_t aeb_handler_task_base_depth(aeb_state *state, const aeb_handler_task *parent);

/* RecursionError when too many handlers wait in a row, from `task` up.  0 or -1. */
int aeb_handler_task_check_depth(aeb_handler_task *task);

#endif
