/* Dispatch: the loop over the sync handlers of one plan: call, isolate, count. */
#ifndef AEB_DISPATCH_H
#define AEB_DISPATCH_H

#include "bus_object.h"
#include "event.h"
#include "registry.h"

/* One event on its way to the handlers. */
typedef struct {
    PyObject *name;     /* borrowed, exact str */
    PyObject *payload;  /* borrowed */
    PyObject *event;    /* owned: the Event, when some handler needs it, else NULL */
    PyObject *outcomes; /* borrowed: the list that collects them (see outcome.h), or NULL */
    uint64_t seq;
    bool
        guard_failed; /* a guard has: the pending error is its, and no handler is called any more */
    bool awaited;     /* the emitter waits, and can be made to wait for a stream */
    bool published; /* the payload is an object given to publish, which the name is derived from */
    struct aeb_watch *watch; /* borrowed, or NULL; for plans with AEB_PLAN_TIMED only */
} aeb_occasion;

/* The number of an event that is emitted, which is counted by it. */
static inline uint64_t
aeb_take_number(aeb_bus *bus, const aeb_plan *plan)
{
    (void)AEB_ADD(plan->counter->n, 1);
    return AEB_ADD(bus->seq, 1);
}

/* The same at the beginning of an emission: 0 where the payload is checked first, and the number is taken
 * in aeb_dispatch_prepare(). */
static inline uint64_t
aeb_take_early_number(aeb_bus *bus, const aeb_plan *plan)
{
    return AEB_UNLIKELY(plan->flags & AEB_PLAN_CHECKED) ? 0 : aeb_take_number(bus, plan);
}

/* Whether an emission with this plan has anything to do. */
static inline bool
aeb_dispatch_needed(const aeb_plan *plan)
{
    return ((size_t)plan->n_entries | plan->flags) != 0;
}

/* What there is to do before any handler of a plan with flags is called.  0 or -1. */
int aeb_dispatch_prepare(aeb_bus *bus, const aeb_plan *plan, aeb_occasion *occasion);

/* Calls the sync handlers of `plan` in order.
 *
 * A handler that returns an awaitable is an async handler after all: (index in the plan, awaitable,
 * nanoseconds) is appended to *late, a list made when first needed.  Returns the number of handlers called, or
 * -1 with an error that must propagate. */
Py_ssize_t aeb_dispatch_sync(aeb_bus *bus, aeb_plan *plan, aeb_occasion *occasion, bool nested,
                             PyObject **late);

/* Calls one handler, which is not held weakly, in its form; counts the call.  A new reference or
 * NULL. */
PyObject *aeb_call_handler(aeb_subscription *sub, aeb_form form, const aeb_occasion *occasion);

/* The same of any handler: 1 with *result, -1 with an exception, and 0 when it was held weakly and is
 * gone. */
int aeb_call_any_handler(aeb_subscription *sub, aeb_form form, const aeb_occasion *occasion,
                         PyObject **result);

/* Appends what a sync handler has returned, after so many nanoseconds (0: not measured), to *late, see
 * aeb_dispatch_sync().  0 or -1. */
int aeb_add_late(PyObject **late, Py_ssize_t index, PyObject *awaitable, uint64_t took);

/* Whether `await` accepts the object.  Looks at types only. */
bool aeb_is_awaitable(PyObject *obj);

/* Calls obj.close() if it has one.  0 or -1. */
int aeb_close_awaitable(aeb_state *state, PyObject *obj);

/* Marks the thread as being inside an emission until aeb_dispatch_leave(), which is told the
 * answer.
 *
 * 1: it was inside one already, the new emission is nested; 0: it was not; -1 with RecursionError.
 *
 * Nesting matters for one thing, runaway recursion.  A RecursionError that every level isolated and
 * went on from would be raised again by the next handler, and two handlers that emit would take two
 * to the power of the depth to end; and near the end of the stack there is no room to log it.  So a
 * nested emission lets it pass, and the outermost one of the thread reports it. */
static inline int aeb_dispatch_enter(aeb_state *state);
static inline void aeb_dispatch_leave(aeb_state *state, bool nested);

/* In a forked child: forgets the threads that it does not have. */
void aeb_dispatch_after_fork(aeb_state *state);

/* The same where some thread is inside an emission already. */
int aeb_dispatch_enter_contended(aeb_state *state);
void aeb_dispatch_leave_contended(aeb_state *state, bool nested);

static inline int
aeb_dispatch_enter(aeb_state *state)
{
    if (!AEB_HAS_GIL || AEB_UNLIKELY(state->n_emitting > 0)) {
        return aeb_dispatch_enter_contended(state);
    }
    state->emitting[0] = (aeb_emitting){.thread = PyThreadState_Get(), .depth = 1};
    state->n_emitting = 1;
    return 0;
}

static inline void
aeb_dispatch_leave(aeb_state *state, bool nested)
{
    if (AEB_HAS_GIL && AEB_LIKELY(state->n_emitting == 1 && !nested)) {
        /* The only thread there is this one; its depth is more than 1 where stacks are switched. */
        state->n_emitting = --state->emitting[0].depth > 0;
        return;
    }
    aeb_dispatch_leave_contended(state, nested);
}

#endif
