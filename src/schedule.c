/* What `emit` leaves to event loops: deciding where async handlers run, and keeping them alive.
 *
 * `pending` is the set of deliveries that emit has scheduled and that are not over; it holds them
 * strongly, so no task is lost to the garbage collector.  It is a dict for its order; the keys hash
 * and compare by identity, so changing it runs no Python code.  A pending delivery is "parked"
 * while its handler itself waits for all the others (drain), else it would wait for itself.
 *
 * A forked child has the set but no thread and no loop that would ever finish what is in it, so the
 * first look at it in another process empties it.
 *
 * The set, and who waits for it to be empty, are guarded by the lock of the bus; callbacks are called
 * without it.
 */
#include "schedule.h"

#include "aio.h"
#include "emission.h"
#include "handler_task.h"
#include "offload.h"
#include "permit.h"
#include "report.h"
#include "where.h"
#include "timing.h"

/* Seconds between two warnings of one bus that it drops deliveries. */
#define DROP_WARNING_PERIOD 1.0

/* Calls every callback of a list, which may be NULL.  Never raises. */
static void
notify(PyObject *callbacks_steal)
{
    PyObject *callbacks = callbacks_steal;
    if (callbacks == NULL) {
        return;
    }
    PyObject *exc = aeb_take_exception();
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(callbacks); i++) {
        PyObject *answer = PyObject_CallNoArgs(PyList_GET_ITEM(callbacks, i));
        if (answer == NULL) {
            PyErr_WriteUnraisable(PyList_GET_ITEM(callbacks, i));
        }
        Py_XDECREF(answer);
    }
    aeb_restore_exception_steal(exc);
    Py_DECREF(callbacks);
}

/* Tells those who wait what has become of `pending`. */
static void
notify_waiting(aeb_bus *bus)
{
    PyObject *empty = NULL, *idle = NULL;
    AEB_LOCK(bus);
    Py_ssize_t n = bus->pending == NULL ? 0 : PyDict_GET_SIZE(bus->pending);
    if (n == 0) {
        empty = bus->empty_callbacks;
        bus->empty_callbacks = NULL;
    }
    if (n == bus->n_parked) {
        idle = bus->idle_callbacks;
        bus->idle_callbacks = NULL;
    }
    AEB_UNLOCK();
    notify(empty);
    notify(idle);
}

/* Makes sure that `pending` exists and belongs to this process. */
static int
own_pending_locked(aeb_bus *bus)
{
    long pid = aeb_process(bus->state);
    if (bus->pending != NULL && bus->pending_pid == pid) {
        return 0;
    }
    PyObject *fresh = PyDict_New();
    if (fresh == NULL) {
        return -1;
    }
    PyObject *inherited = bus->pending;
    bus->pending = fresh;
    bus->pending_pid = pid;
    bus->n_parked = 0;
    Py_CLEAR(bus->empty_callbacks);
    Py_CLEAR(bus->idle_callbacks);
    if (inherited != NULL) {
        PyObject *delivery, *value;
        Py_ssize_t position = 0;
        while (PyDict_Next(inherited, &position, &delivery, &value)) {
            aeb_handler_task_abandon((aeb_handler_task *)delivery);
        }
        Py_DECREF(inherited);
    }
    return 0;
}

/* A pending delivery is over (aeb_settled). */
static bool
delivery_settled(aeb_handler_task *delivery, PyObject *Py_UNUSED(fatal))
{
    aeb_bus *bus = delivery->bus;
    bool found;
    AEB_LOCK(bus);
    found =
        bus->pending != NULL && PyDict_GetItemWithError(bus->pending, (PyObject *)delivery) != NULL;
    if (found) {
        bus->n_parked -= delivery->parked > 0;
        delivery->parked = 0;
        if (PyDict_DelItem(bus->pending, (PyObject *)delivery) < 0) {
            PyErr_WriteUnraisable((PyObject *)delivery);
        }
    }
    AEB_UNLOCK();
    if (found) {
        notify_waiting(bus);
    }
    return false;
}

/* Adds a delivery to those that are pending.  0 or -1. */
static int
add_pending(aeb_bus *bus, aeb_handler_task *delivery)
{
    int status;
    AEB_LOCK(bus);
    status = own_pending_locked(bus);
    if (status == 0) {
        status = PyDict_SetItem(bus->pending, (PyObject *)delivery, Py_None);
    }
    AEB_UNLOCK();
    return status;
}

/* ---- where async handlers run ---------------------------------------------------------------- */

/* Schedules one delivery on a loop, when it has a permit: as a task when the loop runs in this
 * thread, else through call_soon_threadsafe with a copy of this thread's context.  0, or -1 with an
 * error that must propagate. */
static int
schedule_delivery(aeb_bus *bus, aeb_handler_task *delivery, PyObject *loop, bool in_this_thread,
                  bool exempt)
{
    delivery->loop = Py_NewRef(loop);
    delivery->settled = delivery_settled;
    if (add_pending(bus, delivery) < 0) {
        return aeb_handler_task_fail(delivery);
    }
    int go_ahead = aeb_permit_take(bus, delivery, loop, exempt);
    if (go_ahead <= 0) {
        return go_ahead == 0 ? 0 : aeb_handler_task_fail(delivery);
    }
    if (in_this_thread) {
        return aeb_handler_task_start(delivery, loop);
    }
    PyObject *start = PyObject_GetAttr((PyObject *)delivery, bus->state->str_start);
    PyObject *handle = NULL;
    if (start != NULL) {
        handle = PyObject_CallMethodOneArg(loop, bus->state->str_call_soon_threadsafe, start);
    }
    Py_XDECREF(start);
    if (handle == NULL) { /* the loop is closed */
        return aeb_handler_task_fail(delivery);
    }
    Py_DECREF(handle);
    return 0;
}

/* Whether max_pending leaves no room for one more: 1, 0 or -1. */
static int
is_full(aeb_bus *bus)
{
    if (AEB_LIKELY(bus->max_pending == 0)) {
        return 0;
    }
    int full = -1;
    AEB_LOCK(bus);
    if (own_pending_locked(bus) == 0) {
        full = PyDict_GET_SIZE(bus->pending) >= bus->max_pending;
    }
    AEB_UNLOCK();
    return full;
}

/* Accounts for the async handlers from `cursor` on, which are not claimed and not started.  Says so
 * in the log, once per second at most.  0, or -1 with an error that must propagate. */
static int
drop_rest(aeb_bus *bus, aeb_plan *plan, aeb_occasion *occasion, PyObject *late,
          const aeb_async_cursor *cursor, bool nested)
{
    aeb_subscription *first = NULL;
    uint64_t n_here = 0, dropped = 0;
    for (Py_ssize_t i = cursor->next_entry; i < plan->n_entries; i++) {
        aeb_subscription *sub = plan->entries[i].sub;
        int concerned = aeb_subscription_is_active(sub);
        if (concerned && sub->where != NULL) {
            concerned = aeb_where_matches(sub->where, occasion->payload);
            if (concerned < 0) { /* no match; it is a failure where the handler might have run */
                if (aeb_clear_ordinary_exception() < 0) {
                    return -1;
                }
                concerned = 0;
            }
        }
        if (concerned > 0) {
            first = first == NULL ? sub : first;
            n_here++;
        }
    }
    for (Py_ssize_t i = cursor->next_late; late != NULL && i < PyList_GET_SIZE(late); i++) {
        PyObject *index = PyTuple_GET_ITEM(PyList_GET_ITEM(late, i), 0);
        first = first == NULL ? plan->entries[PyLong_AsSsize_t(index)].sub : first;
        n_here++;
    }
    double now = aeb_monotonic();
    AEB_LOCK(bus);
    (void)AEB_ADD(bus->n_dropped, n_here);
    if (n_here > 0 &&
        (bus->drop_warned_at <= 0 || now - bus->drop_warned_at >= DROP_WARNING_PERIOD)) {
        dropped = bus->n_dropped - bus->n_dropped_known;
        bus->n_dropped_known = bus->n_dropped;
        bus->drop_warned_at = now;
    }
    AEB_UNLOCK();
    if (dropped == 0) {
        return 0;
    }
    return aeb_report_dropped(bus, first, occasion->name, bus->max_pending, dropped, nested);
}

/* Schedules the async deliveries of this emission on a loop, as far as max_pending admits them.
 * The number of handlers scheduled, without those whose awaitable was `late`, or -1. */
static Py_ssize_t
schedule_on_loop(aeb_bus *bus, aeb_plan *plan, aeb_occasion *occasion, PyObject *late,
                 PyObject *loop, bool in_this_thread, bool nested)
{
    aeb_async_cursor cursor = {
        .next_entry = plan->n_sync,
        .bus = bus,
        .occasion = occasion,
        .nested = nested,
    };
    aeb_handler_task *delivery;
    Py_ssize_t n_scheduled = 0;
    int status = 0, full, exempt = nested;
    if (AEB_UNLIKELY(bus->max_concurrency > 0) && !nested) {
        exempt = aeb_handler_task_inside(bus->state);
        if (exempt < 0) {
            aeb_close_late(bus->state, late, 0);
            return -1;
        }
    }
    while ((full = is_full(bus)) == 0 &&
           (status = aeb_next_delivery(plan, late, &cursor, &delivery)) > 0) {
        n_scheduled += delivery->awaitable == NULL;
        status = schedule_delivery(bus, delivery, loop, in_this_thread, exempt);
        Py_DECREF(delivery);
        if (status < 0) {
            break;
        }
    }
    if (full > 0) {
        status = drop_rest(bus, plan, occasion, late, &cursor, nested);
    }
    aeb_close_late(bus->state, late, cursor.next_late);
    return status < 0 || full < 0 ? -1 : n_scheduled;
}

/* Runs the deliveries in a private loop, in this thread, until they are over.  `watch` may be NULL. */
static int
run_to_completion(aeb_bus *bus, const aeb_occasion *occasion, aeb_watch *watch,
                  PyObject *deliveries, bool nested)
{
    aeb_state *state = bus->state;
    int status = -1;
    PyObject *emission = NULL, *result = NULL;
    if (AEB_LOAD(state->run_to_completion) == NULL) {
        PyObject *module = PyImport_ImportModule("agent_event_bus._loop");
        if (module != NULL) {
            PyObject *found = PyObject_GetAttrString(module, "run_to_completion");
            if (found != NULL) {
                aeb_fill_once(&state->run_to_completion, found);
            }
            Py_DECREF(module);
        }
    }
    if (AEB_LOAD(state->run_to_completion) != NULL) {
        emission =
            aeb_emission_of_deliveries(bus, occasion->name, deliveries, occasion->outcomes, nested);
    }
    if (emission != NULL) {
        result = PyObject_CallOneArg(state->run_to_completion, emission);
        status = result == NULL ? -1 : 0;
        aeb_emission_tell_watch(emission, watch);
    }
    Py_XDECREF(result);
    Py_XDECREF(emission);
    return status;
}

/* The async deliveries of this emission but the offloaded ones, in order, in a new list. */
static PyObject *
make_deliveries(aeb_bus *bus, aeb_plan *plan, aeb_occasion *occasion, PyObject *late, bool nested)
{
    aeb_async_cursor cursor = {
        .next_entry = plan->n_sync,
        .bus = bus,
        .occasion = occasion,
        .nested = nested,
        .guarded = true,
        .skip_offloaded = true,
    };
    aeb_handler_task *delivery;
    PyObject *deliveries = PyList_New(0);
    int status = deliveries == NULL ? -1 : 0;
    while (status == 0 && (status = aeb_next_delivery(plan, late, &cursor, &delivery)) > 0) {
        status = PyList_Append(deliveries, (PyObject *)delivery);
        Py_DECREF(delivery);
    }
    aeb_close_late(bus->state, late, cursor.next_late);
    if (status < 0) {
        Py_CLEAR(deliveries);
    }
    return deliveries;
}

/* Where there is no way to run deliveries, each of them has failed with the pending exception.  It
 * goes on propagating, -1, when none is left to blame or it is no Exception. */
static int
fail_deliveries(PyObject *deliveries)
{
    if (!PyErr_ExceptionMatches(PyExc_Exception)) {
        return -1;
    }
    PyObject *exc = aeb_take_exception();
    bool blamed = false;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(deliveries); i++) {
        aeb_handler_task *delivery = (aeb_handler_task *)PyList_GET_ITEM(deliveries, i);
        if (delivery->status == AEB_HANDLER_NEW) {
            aeb_restore_exception_steal(Py_NewRef(exc));
            if (aeb_handler_task_fail(delivery) < 0) {
                Py_DECREF(exc);
                return -1;
            }
            blamed = true;
        }
    }
    if (!blamed) {
        aeb_restore_exception_steal(exc);
        return -1;
    }
    Py_DECREF(exc);
    return 0;
}

/* Runs the async deliveries to their end; `exc` (stolen, or NULL) says why there is no way to.  The
 * number of handlers, without those whose awaitable was `late`, or -1. */
static Py_ssize_t
run_async_here(aeb_bus *bus, aeb_plan *plan, aeb_occasion *occasion, PyObject *late,
               PyObject *exc_steal, bool nested)
{
    PyObject *deliveries = make_deliveries(bus, plan, occasion, late, nested);
    if (deliveries == NULL) {
        Py_XDECREF(exc_steal);
        return -1;
    }
    Py_ssize_t n = PyList_GET_SIZE(deliveries);
    aeb_watch *watch = plan->flags & AEB_PLAN_TIMED ? occasion->watch : NULL;
    int status = 0;
    if (exc_steal != NULL) {
        aeb_restore_exception_steal(exc_steal);
        status = n > 0 ? fail_deliveries(deliveries) : aeb_clear_ordinary_exception();
    }
    else if (n > 0 && run_to_completion(bus, occasion, watch, deliveries, nested) < 0) {
        status = fail_deliveries(deliveries);
    }
    Py_DECREF(deliveries);
    return status < 0 ? -1 : n - (late == NULL ? 0 : PyList_GET_SIZE(late));
}

/* Offloaded handlers first: without a loop they hold nobody up. */
Py_ssize_t
aeb_schedule_here(aeb_bus *bus, aeb_plan *plan, aeb_occasion *occasion, PyObject *late_given,
                  PyObject *exc_steal, bool nested)
{
    PyObject *late = Py_XNewRef(late_given);
    Py_ssize_t n_async = -1;
    Py_ssize_t n_offloaded = aeb_call_offloaded_inline(bus, plan, occasion, nested, &late);
    if (n_offloaded < 0) {
        aeb_close_late(bus->state, late, 0);
        Py_XDECREF(exc_steal);
    }
    else {
        n_async = run_async_here(bus, plan, occasion, late, exc_steal, nested);
    }
    Py_XDECREF(late);
    return n_async < 0 ? -1 : n_offloaded + n_async;
}

Py_ssize_t
aeb_schedule(aeb_bus *bus, aeb_plan *plan, aeb_occasion *occasion, PyObject *late, bool nested)
{
    PyObject *running = NULL;
    if (aeb_aio_running_loop(bus->state, &running) < 0) {
        return aeb_schedule_here(bus, plan, occasion, late, aeb_take_exception(), nested);
    }
    PyObject *loop = running != NULL ? Py_NewRef(running) : aeb_bus_get(bus, &bus->loop);
    if (loop == NULL) {
        return aeb_schedule_here(bus, plan, occasion, late, NULL, nested);
    }
    Py_ssize_t n = schedule_on_loop(bus, plan, occasion, late, loop, running != NULL, nested);
    Py_DECREF(loop);
    Py_XDECREF(running);
    return n;
}

/* ---- what drain and aclose are made of ------------------------------------------------------- */

Py_ssize_t
aeb_schedule_n_pending(aeb_bus *bus)
{
    Py_ssize_t n = 0;
    AEB_LOCK(bus);
    if (bus->pending != NULL && bus->pending_pid == aeb_process(bus->state)) {
        n = PyDict_GET_SIZE(bus->pending);
    }
    AEB_UNLOCK();
    return n;
}

PyObject *
aeb_schedule_pending(aeb_bus *bus)
{
    PyObject *deliveries;
    AEB_LOCK(bus);
    deliveries = own_pending_locked(bus) < 0 ? NULL : PyDict_Keys(bus->pending);
    AEB_UNLOCK();
    return deliveries;
}

/* Whether a delivery is pending: 1, 0 or -1. */
static int
is_pending(aeb_bus *bus, PyObject *delivery)
{
    int found = -1;
    AEB_LOCK(bus);
    if (own_pending_locked(bus) == 0) {
        found = PyDict_GetItemWithError(bus->pending, delivery) != NULL;
    }
    AEB_UNLOCK();
    return found;
}

int
aeb_schedule_own_delivery(aeb_bus *bus, PyObject **own)
{
    aeb_handler_task *task;
    *own = NULL;
    if (aeb_handler_task_current(bus->state, NULL, &task) < 0) {
        return -1;
    }
    while (task != NULL) {
        int found = is_pending(bus, (PyObject *)task);
        if (found != 0) {
            *own = found > 0 ? (PyObject *)task : NULL;
            if (found < 0) {
                Py_DECREF(task);
            }
            return found > 0 ? 0 : -1;
        }
        Py_SETREF(task, aeb_handler_task_parent(task));
    }
    return 0;
}

int
aeb_schedule_when_idle(aeb_bus *bus, PyObject *callback, bool ignore_parked)
{
    PyObject **slot = ignore_parked ? &bus->idle_callbacks : &bus->empty_callbacks;
    PyObject *fresh = PyList_New(0);
    int status;
    if (fresh == NULL) {
        return -1;
    }
    AEB_LOCK(bus);
    status = own_pending_locked(bus);
    if (status == 0) {
        if (*slot == NULL) {
            *slot = Py_NewRef(fresh);
        }
        status = PyList_Append(*slot, callback);
    }
    AEB_UNLOCK();
    Py_DECREF(fresh);
    if (status < 0) {
        return -1;
    }
    notify_waiting(bus);
    return 0;
}

static void
forget_callback_locked(aeb_bus *bus, PyObject *callback)
{
    PyObject *lists[] = {bus->empty_callbacks, bus->idle_callbacks};
    for (size_t which = 0; which < Py_ARRAY_LENGTH(lists); which++) {
        Py_ssize_t i = lists[which] == NULL ? 0 : PyList_GET_SIZE(lists[which]);
        while (--i >= 0) {
            if (PyList_GET_ITEM(lists[which], i) == callback &&
                PyList_SetSlice(lists[which], i, i + 1, NULL) < 0) {
                PyErr_WriteUnraisable(callback);
            }
        }
    }
}

void
aeb_schedule_forget_callback(aeb_bus *bus, PyObject *callback)
{
    AEB_LOCK(bus);
    forget_callback_locked(bus, callback);
    AEB_UNLOCK();
}

int
aeb_schedule_park(aeb_bus *bus, PyObject *obj, bool parked)
{
    if (!Py_IS_TYPE(obj, bus->state->handler_task_type)) {
        PyErr_SetString(PyExc_TypeError, "not a delivery");
        return -1;
    }
    aeb_handler_task *delivery = (aeb_handler_task *)obj;
    int found;
    AEB_LOCK(bus);
    found = is_pending(bus, obj);
    if (found > 0) {
        /* A handler may wait in several tasks at once. */
        bus->n_parked -= delivery->parked > 0;
        delivery->parked += parked ? 1 : -1;
        bus->n_parked += delivery->parked > 0;
    }
    AEB_UNLOCK();
    if (found > 0) {
        notify_waiting(bus);
    }
    return found < 0 ? -1 : 0;
}

int
aeb_schedule_traverse(aeb_bus *bus, visitproc visit, void *arg)
{
    Py_VISIT(bus->loop);
    Py_VISIT(bus->pending);
    Py_VISIT(bus->empty_callbacks);
    Py_VISIT(bus->idle_callbacks);
    return 0;
}

void
aeb_schedule_clear(aeb_bus *bus)
{
    Py_CLEAR(bus->loop);
    Py_CLEAR(bus->pending);
    Py_CLEAR(bus->empty_callbacks);
    Py_CLEAR(bus->idle_callbacks);
}
