/* Handlers with options that most do not have, and what all handlers of some buses need: the slow way
 * to call them.
 *
 * A plan is marked when it is made (AEB_PLAN_CAREFUL), so that the others are spared every question
 * that is asked here.
 *
 * A guard (isolate=False) is there to stop things, so its failure is not reported but raised, in the
 * emitter, and no handler is called after it.  Where outcomes are collected it is one of them.
 */
#include "careful.h"

#include "outcome.h"
#include "report.h"
#include "timing.h"
#include "where.h"

/* The handler, or its condition, has ended with the pending exception.  0 when that has been dealt
 * with, else -1. */
static int
handler_failed(aeb_bus *bus, aeb_subscription *sub, aeb_occasion *occasion, bool guarded,
               bool nested, double began)
{
    bool guard = sub->guard && guarded;
    if (!guard && occasion->outcomes == NULL) {
        return aeb_report_failure(bus, sub, occasion->name, nested);
    }
    aeb_ending ending = aeb_account_ending(bus, sub, nested, false);
    if (ending == AEB_ENDED_FATALLY) {
        return -1;
    }
    PyObject *exc = aeb_take_exception();
    if (occasion->outcomes != NULL &&
        aeb_outcome_add(bus->state, occasion->outcomes, sub, ending, exc, began) < 0) {
        Py_DECREF(exc);
        return -1;
    }
    if (!guard) {
        Py_DECREF(exc);
        return 0;
    }
    occasion->guard_failed = true;
    aeb_restore_exception_steal(exc);
    return -1;
}

int
aeb_ask(aeb_bus *bus, aeb_subscription *sub, aeb_occasion *occasion, bool guarded, bool nested)
{
    if (sub->where == NULL || !aeb_subscription_is_active(sub)) {
        return 1;
    }
    double began = occasion->outcomes != NULL ? aeb_monotonic() : 0.0;
    int matches = aeb_where_matches(sub->where, occasion->payload);
    return matches < 0 ? handler_failed(bus, sub, occasion, guarded, nested, began) : matches > 0;
}

int
aeb_admit(aeb_bus *bus, aeb_subscription *sub, aeb_occasion *occasion, bool guarded, bool nested)
{
    int answer = aeb_ask(bus, sub, occasion, guarded, nested);
    return answer > 0 ? aeb_registry_claim(sub) : answer;
}

int
aeb_call_carefully(aeb_bus *bus, const aeb_plan_entry *entry, aeb_occasion *occasion, bool nested,
                   uint64_t *clock, aeb_promise *promise)
{
    aeb_subscription *sub = entry->sub;
    double began = occasion->outcomes != NULL ? aeb_monotonic() : 0.0;
    PyObject *result;
    *promise = (aeb_promise){NULL, 0};
    int called = aeb_call_any_handler(sub, entry->form, occasion, &result);
    if (called == 0) {
        return 0;
    }
    bool awaitable = result != NULL && result != Py_None && aeb_is_awaitable(result);
    bool promised = awaitable && (!sub->listener || occasion->awaited);
    if (clock != NULL) {
        promise->took = aeb_timing_lap(clock);
        if (!promised) { /* else what it returned is measured with it, when that is over */
            aeb_timing_note(sub, occasion->watch, promise->took);
        }
    }
    else if (promised && occasion->outcomes != NULL) {
        promise->took = (uint64_t)((aeb_monotonic() - began) * 1e9);
    }
    if (promised) {
        promise->awaitable = result;
        return 1;
    }
    if (awaitable) { /* nobody can be made to wait for the stream: what it has no room for is lost */
        int closed = aeb_close_awaitable(bus->state, result);
        Py_SETREF(result, closed < 0 ? NULL : Py_NewRef(Py_None));
    }
    int status = 0;
    if (result == NULL) {
        status = handler_failed(bus, sub, occasion, true, nested, began);
    }
    else if (occasion->outcomes != NULL) {
        status =
            aeb_outcome_add(bus->state, occasion->outcomes, sub, AEB_ENDED_WELL, result, began);
    }
    Py_XDECREF(result);
    if (clock != NULL) { /* what has just been done is no part of the next one's time */
        (void)aeb_timing_lap(clock);
    }
    return status < 0 ? -1 : 1;
}

Py_ssize_t
aeb_dispatch_carefully(aeb_bus *bus, aeb_plan *plan, aeb_occasion *occasion, bool nested,
                       PyObject **late)
{
    Py_ssize_t n_called = 0;
    int status = 0;
    bool timed = plan->flags & AEB_PLAN_TIMED;
    uint64_t clock = timed && plan->n_sync > 0 ? aeb_monotonic_ns() : 0;
    for (Py_ssize_t i = 0; status >= 0 && i < plan->n_sync; i++) {
        aeb_plan_entry *entry = &plan->entries[i];
        aeb_promise promise;
        if (timed && (status = aeb_timing_prepare(bus, entry->sub)) < 0) {
            break;
        }
        status = aeb_admit(bus, entry->sub, occasion, true, nested);
        if (timed && entry->sub->where != NULL) { /* a condition is no part of anybody's time */
            clock = aeb_monotonic_ns();
        }
        if (status <= 0) {
            continue;
        }
        status = aeb_call_carefully(bus, entry, occasion, nested, timed ? &clock : NULL, &promise);
        n_called += status != 0; /* it was called, also when the error must propagate */
        if (promise.awaitable != NULL) {
            status = aeb_add_late(late, i, promise.awaitable, promise.took);
            Py_DECREF(promise.awaitable);
        }
    }
    (void)AEB_ADD(bus->n_delivered, (uint64_t)n_called);
    return status < 0 ? -1 : n_called;
}
