/* Timing: how long handlers take (EventBus(timing=True)) and events (slow_after).
 *
 * A bus with one of the two has AEB_PLAN_TIMED in all of its plans.  Whoever calls a handler for such
 * a plan reads the clock: careful.c for sync handlers, where the end of one is the beginning of the
 * next, starter.c for async ones that never are a delivery, handler_task.c for all other ones.
 *
 * Latencies are kept in a histogram for each handler name.  The bus owns them until it dies, and a
 * subscription borrows the one it needs, so that measuring it takes no look-up.  That is safe because
 * a subscription is measured by emissions of its own bus alone, which hold that.
 *
 * A watch belongs to one emission and knows its slowest handler.
 */
#include "timing.h"

#include "histogram.h"
#include "report.h"

/* How many handler names have a histogram of their own.  The rest share one, under REST. */
#define MAX_NAMES 1024
#define REST "*"

typedef struct aeb_latency {
    PyObject *name; /* strong */
    aeb_histogram histogram;
} aeb_latency;

struct aeb_latencies {
    PyObject *index; /* dict: handler name -> index in `all` */
    Py_ssize_t n;
    aeb_latency *all[MAX_NAMES + 1]; /* owned */
};

void
aeb_timing_configure(aeb_bus *bus, bool timing, double slow_after)
{
    bus->timing = timing;
    bus->slow_after = slow_after;
}

/* ---- latencies ------------------------------------------------------------------------------- */

static struct aeb_latencies *
latencies_of(aeb_bus *bus)
{
    PyObject *index = bus->latencies == NULL ? PyDict_New() : NULL;
    if (bus->latencies == NULL && index != NULL) { /* still: a finaliser may have been faster */
        bus->latencies = PyMem_Calloc(1, sizeof(struct aeb_latencies));
        if (bus->latencies == NULL) {
            PyErr_NoMemory();
        }
        else {
            bus->latencies->index = Py_NewRef(index);
        }
    }
    Py_XDECREF(index);
    return bus->latencies;
}

/* A new latency at the end of `all`.  Runs no Python code. */
static aeb_latency *
append_latency(struct aeb_latencies *latencies, PyObject *name)
{
    aeb_latency *fresh = PyMem_Calloc(1, sizeof(aeb_latency));
    PyObject *number = fresh == NULL ? PyErr_NoMemory() : PyLong_FromSsize_t(latencies->n);
    if (number == NULL || PyDict_SetItem(latencies->index, name, number) < 0) {
        Py_XDECREF(number);
        PyMem_Free(fresh);
        return NULL;
    }
    Py_DECREF(number);
    fresh->name = Py_NewRef(name);
    latencies->all[latencies->n++] = fresh;
    return fresh;
}

/* The latency of handlers with this name, an exact str. */
static aeb_latency *
find_latency(aeb_bus *bus, PyObject *name)
{
    struct aeb_latencies *latencies = latencies_of(bus);
    PyObject *rest = PyUnicode_InternFromString(REST);
    aeb_latency *latency = NULL;
    if (latencies != NULL && rest != NULL) {
        PyObject *number = PyDict_GetItemWithError(latencies->index, name);
        if (number == NULL && latencies->n >= MAX_NAMES) {
            name = rest;
            number = PyDict_GetItemWithError(latencies->index, name);
        }
        latency = number != NULL ? latencies->all[PyLong_AsSsize_t(number)]
                                 : append_latency(latencies, name);
    }
    Py_XDECREF(rest);
    return latency;
}

int
aeb_timing_prepare_latency(aeb_bus *bus, aeb_subscription *sub)
{
    aeb_latency *latency;
    PyObject *name = aeb_subscription_handler_name(sub);
    if (name == NULL) {
        return -1;
    }
    AEB_LOCK(bus);
    latency = find_latency(bus, name);
    AEB_UNLOCK();
    Py_DECREF(name);
    if (latency == NULL) {
        return -1;
    }
    AEB_STORE(sub->latency, &latency->histogram);
    return 0;
}

/* Lets go of what may be the last reference.  A pending exception stays. */
static void
release_quietly(aeb_subscription *sub_steal)
{
    if (sub_steal != NULL) {
        PyObject *exc = aeb_take_exception();
        Py_DECREF(sub_steal);
        aeb_restore_exception_steal(exc);
    }
}

void
aeb_watch_note(aeb_watch *watch, aeb_subscription *sub, uint64_t took)
{
    if (watch->slowest == NULL || took > watch->longest) {
        aeb_subscription *before = watch->slowest;
        watch->longest = took;
        watch->slowest = (aeb_subscription *)Py_NewRef((PyObject *)sub);
        release_quietly(before);
    }
}

void
aeb_timing_note(aeb_subscription *sub, aeb_watch *watch, uint64_t took)
{
    aeb_histogram *latency = AEB_LOAD(sub->latency);
    if (latency != NULL) {
        aeb_histogram_add(latency, took);
    }
    if (watch != NULL) {
        aeb_watch_note(watch, sub, took);
    }
}

static PyObject *
latency_dict(const aeb_histogram *histogram)
{
    const double second = 1e9;
    uint64_t count = AEB_LOAD(histogram->count);
    return Py_BuildValue("{sKsdsdsdsd}", "count", (unsigned long long)count, "mean",
                         count > 0 ? (double)AEB_LOAD(histogram->sum) / (double)count / second
                                   : 0.0,
                         "p50", aeb_histogram_quantile(histogram, 0.5) / second, "p99",
                         aeb_histogram_quantile(histogram, 0.99) / second, "max",
                         (double)AEB_LOAD(histogram->max) / second);
}

static PyObject *
latencies_locked(aeb_bus *bus)
{
    PyObject *result = PyDict_New();
    /* Making a dict may run a finaliser that emits; latencies are only ever added, at the end. */
    for (Py_ssize_t i = 0; result != NULL && bus->latencies != NULL && i < bus->latencies->n; i++) {
        const aeb_latency *latency = bus->latencies->all[i];
        if (AEB_LOAD(latency->histogram.count) == 0) {
            continue; /* it has begun, and is not over */
        }
        PyObject *figures = latency_dict(&latency->histogram);
        if (figures == NULL || PyDict_SetItem(result, latency->name, figures) < 0) {
            Py_CLEAR(result);
        }
        Py_XDECREF(figures);
    }
    return result;
}

PyObject *
aeb_timing_latencies(aeb_bus *bus)
{
    PyObject *result;
    AEB_LOCK(bus);
    result = latencies_locked(bus);
    AEB_UNLOCK();
    return result;
}

int
aeb_timing_traverse(aeb_bus *bus, visitproc visit, void *arg)
{
    if (bus->latencies != NULL) {
        Py_VISIT(bus->latencies->index);
    }
    return 0;
}

void
aeb_timing_free(aeb_bus *bus)
{
    struct aeb_latencies *latencies = bus->latencies;
    bus->latencies = NULL;
    if (latencies == NULL) {
        return;
    }
    for (Py_ssize_t i = 0; i < latencies->n; i++) {
        Py_DECREF(latencies->all[i]->name);
        PyMem_Free(latencies->all[i]);
    }
    Py_DECREF(latencies->index);
    PyMem_Free(latencies);
}

/* ---- watches --------------------------------------------------------------------------------- */

aeb_watch *
aeb_watch_new(void)
{
    aeb_watch *watch = PyMem_Calloc(1, sizeof(aeb_watch));
    if (watch == NULL) {
        PyErr_NoMemory();
    }
    return watch;
}

void
aeb_watch_free(aeb_watch *watch)
{
    if (watch != NULL) {
        aeb_subscription *slowest = watch->slowest;
        PyMem_Free(watch);
        release_quietly(slowest);
    }
}

int
aeb_watch_end(aeb_bus *bus, aeb_watch *watch, PyObject *name, bool nested, bool raised)
{
    double total = (double)(aeb_monotonic_ns() - watch->began) / 1e9;
    aeb_subscription *slowest = watch->slowest;
    int status = 0;
    watch->slowest = NULL;
    PyObject *exc = raised ? aeb_take_exception() : NULL;
    /* Near the end of the stack there is no room to log, and every level below would try. */
    bool unwinding =
        nested && exc != NULL && PyErr_GivenExceptionMatches(exc, PyExc_RecursionError);
    if (total > bus->slow_after && bus->slow_after > 0.0 && !unwinding) {
        status = aeb_report_slow(bus, name, total, slowest, (double)watch->longest / 1e9, nested);
    }
    if (raised) {
        if (status < 0) {
            PyErr_WriteUnraisable((PyObject *)bus);
        }
        aeb_restore_exception_steal(exc);
        status = 0;
    }
    release_quietly(slowest);
    return status;
}
