/* Statistics: what a bus has counted.
 *
 * Each number is counted where it happens, at most one addition a delivery, and put together here.
 */
#include "stats.h"

#include "counter.h"
#include "schedule.h"
#include "timing.h"

/* Adds result[name], and takes the value's reference; NULL is passed on.  0 or -1. */
static int
add_steal(PyObject *result, const char *name, PyObject *value_steal)
{
    int status = value_steal == NULL ? -1 : PyDict_SetItemString(result, name, value_steal);
    Py_XDECREF(value_steal);
    return status;
}

const char aeb_stats_doc[] =
    PyDoc_STR("stats($self, /)\n--\n\n"
              "Return what the bus has counted since it was made, as a new dict: emitted, "
              "delivered, failed,\n"
              "cancelled, timed_out, dropped, pending, subscriptions, by_event, and with "
              "timing=True latency.\n"
              "\n"
              "latency has for each handler, by qualified name, a dict with count and, in seconds, "
              "mean, p50,\n"
              "p99 and max; p50 and p99 are at most 6.25 % off, the others exact.");

PyObject *
aeb_stats(aeb_bus *bus, PyObject *Py_UNUSED(ignored))
{
    /* The numbers first, all at one moment: making more dicts may run finalisers.  The sum instead of the
     * last number, for other threads may be between counting an event and numbering it. */
    uint64_t emitted;
    PyObject *by_event = aeb_registry_counts(bus, &emitted);
    if (by_event == NULL) {
        return NULL;
    }
    const struct {
        const char *name;
        uint64_t value;
    } counts[] = {
        {"emitted", emitted},
        {"delivered", AEB_LOAD(bus->n_delivered)},
        {"failed", AEB_LOAD(bus->n_failed)},
        {"cancelled", AEB_LOAD(bus->n_cancelled)},
        {"timed_out", AEB_LOAD(bus->n_timed_out)},
        {"dropped", AEB_LOAD(bus->n_dropped)},
        {"pending", (uint64_t)aeb_schedule_n_pending(bus)},
        {"subscriptions", (uint64_t)AEB_LOAD(bus->n_active)},
    };
    PyObject *result = PyDict_New();
    if (result == NULL) {
        Py_DECREF(by_event);
        return NULL;
    }
    for (size_t i = 0; i < Py_ARRAY_LENGTH(counts); i++) {
        if (add_steal(result, counts[i].name, PyLong_FromUnsignedLongLong(counts[i].value)) < 0) {
            Py_DECREF(by_event);
            goto error;
        }
    }
    if (add_steal(result, "by_event", by_event) < 0 ||
        (bus->timing && add_steal(result, "latency", aeb_timing_latencies(bus)) < 0)) {
        goto error;
    }
    return result;

error:
    Py_DECREF(result);
    return NULL;
}
