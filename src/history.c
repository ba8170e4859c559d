/* History: the last events of a bus, in a bounded ring.
 *
 * The ring grows up to its limit as events come, and then each event takes the place of the oldest
 * one.  It is ordered by seq: an event whose emission was overtaken, because making its Event ran a
 * finaliser that emitted, is put where it belongs.
 *
 * An Event that nobody has but the ring is not released when its time is over but made the new one,
 * which saves most of what recording costs.  A reference count of one says that nobody has it: all
 * others, handlers and lists among them, hold their own.
 *
 * Locking: all of it is done under the lock of the bus, which is never given up while the ring changes.
 * What a change releases (a payload may
 * have a finaliser that emits) is released when the ring is sound.
 */
#include "history.h"

#include "event.h"
#include "keys.h"
#include "options.h"

#define FIRST_CAPACITY 16

/* Where the event is that is `i`-th from the oldest one. */
static inline Py_ssize_t
slot_of(const aeb_bus *bus, Py_ssize_t i)
{
    Py_ssize_t slot = bus->history_oldest + i;
    return slot < bus->history_size ? slot : slot - bus->history_size;
}

static inline aeb_event *
event_at(const aeb_bus *bus, Py_ssize_t i)
{
    return (aeb_event *)bus->history[slot_of(bus, i)];
}

/* ---- recording ------------------------------------------------------------------------------- */

/* Makes room for one more event in a ring that is not at its limit.  0 or -1. */
static int
grow(aeb_bus *bus)
{
    Py_ssize_t limit = bus->history_limit;
    Py_ssize_t capacity = bus->history_capacity == 0          ? FIRST_CAPACITY
                          : bus->history_capacity > limit / 2 ? limit
                                                              : 2 * bus->history_capacity;
    capacity = capacity > limit ? limit : capacity;
    PyObject **ring = (size_t)capacity > PY_SSIZE_T_MAX / sizeof(PyObject *)
                          ? NULL
                          : PyMem_Realloc(bus->history, (size_t)capacity * sizeof(PyObject *));
    if (ring == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    bus->history = ring;
    bus->history_capacity = capacity;
    return 0;
}

/* The newest event moves to where its number says. */
static void
settle_newest(aeb_bus *bus)
{
    for (Py_ssize_t i = bus->history_size - 1; i > 0; i--) {
        Py_ssize_t slot = slot_of(bus, i), before = slot_of(bus, i - 1);
        PyObject *event = bus->history[slot];
        if (AEB_LIKELY(((aeb_event *)bus->history[before])->seq < ((aeb_event *)event)->seq)) {
            return;
        }
        bus->history[slot] = bus->history[before];
        bus->history[before] = event;
    }
}

/* Puts an event into the ring.  0 or -1. */
static int
store(aeb_bus *bus, PyObject *event)
{
    PyObject *oldest = NULL;
    if (bus->history_size < bus->history_limit) {
        if (bus->history_size == bus->history_capacity && grow(bus) < 0) {
            return -1;
        }
        bus->history[bus->history_size++] = Py_NewRef(event);
    }
    else if (bus->history_limit > 0 && event_at(bus, 0)->seq < ((aeb_event *)event)->seq) {
        Py_ssize_t slot = bus->history_oldest;
        oldest = bus->history[slot];
        bus->history[slot] = Py_NewRef(event);
        bus->history_oldest = slot + 1 < bus->history_size ? slot + 1 : 0;
    }
    else {
        return 0; /* a finaliser has emitted so much meanwhile that this is too old already */
    }
    settle_newest(bus);
    Py_XDECREF(oldest);
    return 0;
}

/* Makes the oldest event the newest one, where it can be. */
static bool
reuse_oldest(aeb_bus *bus, aeb_occasion *occasion, bool wanted)
{
    if (bus->history_size == 0 || bus->history_size < bus->history_limit) {
        return false;
    }
    PyObject *name, *payload;
    Py_ssize_t slot = bus->history_oldest;
    aeb_event *event = (aeb_event *)bus->history[slot];
    if (event->seq >= occasion->seq || !aeb_event_renew(event, occasion->name, occasion->payload,
                                                        occasion->seq, &name, &payload)) {
        return false;
    }
    event->published = occasion->published;
    bus->history_oldest = slot + 1 < bus->history_size ? slot + 1 : 0;
    occasion->event = wanted ? Py_NewRef((PyObject *)event) : NULL;
    settle_newest(bus);
    Py_DECREF(name);
    Py_DECREF(payload);
    return true;
}

static int
record_locked(aeb_bus *bus, aeb_occasion *occasion, bool wanted)
{
    if (AEB_LIKELY(reuse_oldest(bus, occasion, wanted))) {
        return 0;
    }
    PyObject *event = aeb_event_new(bus->state, occasion->name, occasion->payload, occasion->seq);
    if (event == NULL) {
        return -1;
    }
    ((aeb_event *)event)->published = occasion->published;
    int status = store(bus, event);
    if (status == 0 && wanted) {
        occasion->event = Py_NewRef(event);
    }
    Py_DECREF(event);
    return status;
}

int
aeb_history_record(aeb_bus *bus, aeb_occasion *occasion, bool wanted)
{
    int status;
    AEB_LOCK(bus);
    status = record_locked(bus, occasion, wanted);
    AEB_UNLOCK();
    return status;
}

/* ---- looking back ---------------------------------------------------------------------------- */

/* The end of the segment of a name that begins at `start`. */
static Py_ssize_t
segment_end(PyObject *text, Py_ssize_t start)
{
    Py_ssize_t end = start, length = PyUnicode_GET_LENGTH(text);
    while (end < length && PyUnicode_READ_CHAR(text, end) != '.') {
        end++;
    }
    return end;
}

/* Whether a well-formed key matches an event name, segment by segment. */
static bool
key_matches(PyObject *key, PyObject *name)
{
    Py_ssize_t key_start = 0, name_start = 0;
    Py_ssize_t key_length = PyUnicode_GET_LENGTH(key), name_length = PyUnicode_GET_LENGTH(name);
    while (key_start <= key_length && name_start <= name_length) {
        Py_ssize_t key_end = segment_end(key, key_start);
        Py_ssize_t name_end = segment_end(name, name_start);
        Py_ssize_t length = key_end - key_start;
        bool star = length > 0 && PyUnicode_READ_CHAR(key, key_start) == '*';
        if (star && length == 2) {
            return true; /* "**": the rest, and there is one */
        }
        if (!star) {
            if (length != name_end - name_start) {
                return false;
            }
            for (Py_ssize_t i = 0; i < length; i++) {
                if (PyUnicode_READ_CHAR(key, key_start + i) !=
                    PyUnicode_READ_CHAR(name, name_start + i)) {
                    return false;
                }
            }
        }
        key_start = key_end + 1;
        name_start = name_end + 1;
    }
    return key_start > key_length && name_start > name_length;
}

/* Whether an event is one that a subscription to this key would have got; `key` is normalised. */
static bool
event_matches(const aeb_event *event, PyObject *key)
{
    if (PyType_Check(key)) {
        return event->published && PyObject_TypeCheck(event->payload, (PyTypeObject *)key);
    }
    return key_matches(key, event->name);
}

/* The key to look for: NULL in *normal for every event.  0 or -1. */
static int
normalize(const aeb_bus *bus, PyObject *key, PyObject **normal)
{
    *normal = NULL;
    if (key == Py_None) {
        return 0;
    }
    *normal = aeb_key_normalize(key);
    if (*normal == NULL) {
        return -1;
    }
    if (*normal == bus->state->any_key) {
        Py_CLEAR(*normal);
    }
    return 0;
}

/* The last `limit` events (-1: all that are kept) that match the normalised key (NULL: any), newest
 * first. */
static PyObject *
list_events_locked(aeb_bus *bus, PyObject *normal, Py_ssize_t limit)
{
    PyObject *result = NULL;
    /* Making a list may run finalisers, which emit: so first the events, then the list. */
    Py_ssize_t size = bus->history_size, n = 0;
    PyObject **found = PyMem_New(PyObject *, size > 0 ? (size_t)size : 1);
    if (found == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    for (Py_ssize_t i = size - 1; i >= 0 && n != limit; i--) {
        aeb_event *event = event_at(bus, i);
        if (normal == NULL || event_matches(event, normal)) {
            found[n++] = Py_NewRef((PyObject *)event);
        }
    }
    result = PyList_New(n);
    for (Py_ssize_t i = 0; i < n; i++) {
        if (result != NULL) {
            PyList_SET_ITEM(result, i, found[i]);
        }
        else {
            Py_DECREF(found[i]);
        }
    }

done:
    PyMem_Free(found);
    return result;
}

const char aeb_history_doc[] =
    PyDoc_STR("history($self, /, key=None, limit=100)\n--\n\n"
              "Return the last events, newest first, as a list of Event.\n\n"
              "Kept are the last N events of EventBus(history=N), those without handlers too. key "
              "is what one\n"
              "would subscribe to for them, None for all; limit is how many to return at most, "
              "None for all.\n\n"
              "Raises ValueError or TypeError for a bad key or limit.");

PyObject *
aeb_history(aeb_bus *bus, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"key", "limit", NULL};
    PyObject *key = Py_None, *limit_option = NULL;
    Py_ssize_t limit = 100;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|OO:history", keywords, &key, &limit_option)) {
        return NULL;
    }
    if (limit_option == Py_None) {
        limit = -1;
    }
    else if (limit_option != NULL && aeb_parse_count(limit_option, "limit", &limit) < 0) {
        return NULL;
    }
    PyObject *normal, *result;
    if (normalize(bus, key, &normal) < 0) {
        return NULL;
    }
    AEB_LOCK(bus);
    result = list_events_locked(bus, normal, limit);
    AEB_UNLOCK();
    Py_XDECREF(normal);
    return result;
}

/* ---- life cycle ------------------------------------------------------------------------------ */

void
aeb_history_configure(aeb_bus *bus, Py_ssize_t limit)
{
    AEB_LOCK(bus);
    bus->history_limit = limit;
    aeb_history_clear(bus);
    AEB_UNLOCK();
}

int
aeb_history_traverse(aeb_bus *bus, visitproc visit, void *arg)
{
    for (Py_ssize_t i = 0; i < bus->history_size; i++) {
        Py_VISIT(bus->history[i]);
    }
    return 0;
}

void
aeb_history_clear(aeb_bus *bus)
{
    PyObject **ring = bus->history;
    Py_ssize_t size = bus->history_size;
    bus->history = NULL;
    bus->history_size = bus->history_capacity = bus->history_oldest = 0;
    for (Py_ssize_t i = 0; i < size; i++) {
        Py_DECREF(ring[i]);
    }
    PyMem_Free(ring);
}
