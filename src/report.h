/* Reports: what happens to an exception that a handler raised. */
#ifndef AEB_REPORT_H
#define AEB_REPORT_H

#include "bus_object.h"
#include "subscription.h"

/* Accounts for the pending exception, raised by `sub`'s handler on event `name`, and reports it.
 *
 * 0: dealt with, no exception is set.  -1: it must propagate and is set: an error that is no
 * Exception, or a RecursionError when `nested` (see dispatch.h). */
int aeb_report_failure(aeb_bus *bus, aeb_subscription *sub, PyObject *name, bool nested);

/* How a handler has ended. */
typedef enum {
    AEB_ENDED_WELL,
    AEB_ENDED_CANCELLED,
    AEB_TIMED_OUT,
    AEB_FAILED,
    AEB_ENDED_FATALLY, /* with an error that must propagate */
} aeb_ending;

/* Sees to it that there is an exception where a handler has not returned.  When memory is out the
 * interpreter can fail without one. */
static inline void
aeb_report_expect_exception(void)
{
    if (AEB_UNLIKELY(!PyErr_Occurred())) {
        PyErr_SetString(PyExc_SystemError, "handler has ended without a result or an exception");
    }
}

/* Accounts for the pending exception as aeb_report_failure() does, or aeb_report_late_failure() when
 * `late`, and leaves it to the caller to tell anybody of it. */
aeb_ending aeb_account_ending(aeb_bus *bus, aeb_subscription *sub, bool nested, bool late);

/* Reports an Exception that has been accounted for.  0 or -1 as aeb_report_failure(). */
int aeb_report_accounted(aeb_bus *bus, aeb_subscription *sub, PyObject *name, PyObject *exc,
                         bool nested);

/* The TimeoutError of a handler that has exceeded its timeout, which is accounted for.  A new
 * reference or NULL. */
PyObject *aeb_account_timeout(aeb_subscription *sub);

/* Logs that a handler was cancelled.  0, or -1 for an error that must propagate. */
int aeb_report_cancelled(aeb_bus *bus, aeb_subscription *sub, PyObject *name, bool nested);

/* Accounts for a handler that exceeded its timeout, and reports it as a failure with a TimeoutError.
 * 0, or -1 for an error that must propagate. */
int aeb_report_timeout(aeb_bus *bus, aeb_subscription *sub, PyObject *name, bool nested);

/* Logs that `limit` handlers are pending and `sub`'s was therefore not started; `dropped` is how
 * many were not since this was last logged.  0 or -1 likewise. */
int aeb_report_dropped(aeb_bus *bus, aeb_subscription *sub, PyObject *name, Py_ssize_t limit,
                       uint64_t dropped, bool nested);

/* Logs that routing an event has taken `total` seconds, and that `slowest` (NULL: no handler) took
 * `longest` of them.  0 or -1 likewise. */
int aeb_report_slow(aeb_bus *bus, PyObject *name, double total, aeb_subscription *slowest,
                    double longest, bool nested);

/* aeb_report_failure() for a handler whose timeout has expired: that is counted already. */
int aeb_report_late_failure(aeb_bus *bus, aeb_subscription *sub, PyObject *name, bool nested);

/* Logs, the first time only, that an event came after the bus was closed.  0 or -1 likewise. */
int aeb_report_closed(aeb_bus *bus, PyObject *name);

/* Whether the pending exception is asyncio.CancelledError. */
bool aeb_cancelled_error_pending(aeb_state *state);

int aeb_report_traverse(aeb_bus *bus, visitproc visit, void *arg);
void aeb_report_clear(aeb_bus *bus);

#endif
