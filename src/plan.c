/* Plans: the handlers that one event reaches, sorted and split once for all its emissions.
 *
 * A plan is made of lists that are sorted already: those of the exact name, of the classes of a
 * published object, of each pattern that matches, and of "*".  They are merged two by two, so the
 * common case of one list costs no comparison.
 */
#include "plan.h"

#include <string.h>

/* ---- merging ---------------------------------------------------------------------------------- */

void
aeb_sources_init(aeb_sources *sources)
{
    sources->items = sources->fixed;
    sources->capacity = Py_ARRAY_LENGTH(sources->fixed);
    sources->n = sources->total = 0;
}

void
aeb_sources_free(aeb_sources *sources)
{
    if (sources->items != sources->fixed) {
        PyMem_Free(sources->items);
    }
}

int
aeb_sources_add(aeb_sources *sources, PyObject *list, aeb_form form)
{
    if (list == NULL) {
        return 0;
    }
    if (sources->n == sources->capacity) {
        bool fixed = sources->items == sources->fixed;
        size_t size = (size_t)sources->n * sizeof(aeb_source);
        aeb_source *grown = PyMem_Realloc(fixed ? NULL : sources->items, 2 * size);
        if (grown == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        if (fixed) {
            memcpy(grown, sources->fixed, size);
        }
        sources->items = grown;
        sources->capacity *= 2;
    }
    sources->items[sources->n++] = (aeb_source){list, form};
    sources->total += PyList_GET_SIZE(list);
    return 0;
}

/* Copies the active subscriptions of a list, which are borrowed.  Returns how many. */
static Py_ssize_t
copy_source(const aeb_source *source, aeb_plan_entry *to)
{
    Py_ssize_t n = 0;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(source->list); i++) {
        aeb_subscription *sub = (aeb_subscription *)PyList_GET_ITEM(source->list, i);
        if (aeb_subscription_is_active(sub)) {
            to[n++] = (aeb_plan_entry){sub, sub->envelope ? AEB_FORM_EVENT : source->form};
        }
    }
    return n;
}

/* Merges two sorted runs into `to`.  Of entries with the same subscription the left one stays.
 * Returns how many there are. */
static Py_ssize_t
merge_runs(const aeb_plan_entry *a, Py_ssize_t n_a, const aeb_plan_entry *b, Py_ssize_t n_b,
           aeb_plan_entry *to)
{
    Py_ssize_t i = 0, j = 0, n = 0;
    while (i < n_a && j < n_b) {
        if (a[i].sub == b[j].sub) {
            j++;
        }
        else if (aeb_subscription_before(b[j].sub, a[i].sub)) {
            to[n++] = b[j++];
        }
        else {
            to[n++] = a[i++];
        }
    }
    while (i < n_a) {
        to[n++] = a[i++];
    }
    while (j < n_b) {
        to[n++] = b[j++];
    }
    return n;
}

/* Merges the runs in `from`, each as long as `sizes` says, by way of `to`, which has as much room.
 * Returns which of the two has all entries in the end, sizes[0] of them. */
static aeb_plan_entry *
merge_all(aeb_plan_entry *from, aeb_plan_entry *to, Py_ssize_t *sizes, Py_ssize_t n_runs)
{
    while (n_runs > 1) {
        aeb_plan_entry *read = from, *written = to;
        Py_ssize_t n_merged = 0;
        for (Py_ssize_t i = 0; i < n_runs; i += 2) {
            Py_ssize_t n_a = sizes[i], n_b = i + 1 < n_runs ? sizes[i + 1] : 0;
            Py_ssize_t n = merge_runs(read, n_a, read + n_a, n_b, written);
            read += n_a + n_b;
            written += n;
            sizes[n_merged++] = n;
        }
        aeb_plan_entry *swapped = from;
        from = to;
        to = swapped;
        n_runs = n_merged;
    }
    return from;
}

/* ---- plans ------------------------------------------------------------------------------------ */

/* Fills a fresh plan: the sync handlers in order, then the async ones. */
static void
plan_fill(aeb_plan *plan, const aeb_plan_entry *entries, Py_ssize_t n)
{
    for (int async_pass = 0; async_pass <= 1; async_pass++) {
        for (Py_ssize_t i = 0; i < n; i++) {
            aeb_plan_entry entry = entries[i];
            if (entry.sub->is_async == (bool)async_pass) {
                Py_INCREF(entry.sub);
                plan->entries[plan->n_entries++] = entry;
                plan->flags |= entry.form == AEB_FORM_EVENT ? AEB_PLAN_ENVELOPE : 0;
                plan->flags |= entry.sub->careful ? AEB_PLAN_CAREFUL : 0;
            }
        }
        if (!async_pass) {
            plan->n_sync = plan->n_entries;
        }
    }
}

/* Room on the C stack that most plans make do with. */
#define FEW_ENTRIES 16
#define FEW_SOURCES 8

int
aeb_plan_new(aeb_bus *bus, PyObject *name, aeb_counter *counter, const aeb_sources *sources,
             uint64_t version, aeb_plan **plan)
{
    aeb_plan_entry few_entries[2 * FEW_ENTRIES], *entries = few_entries;
    Py_ssize_t few_sizes[FEW_SOURCES], *sizes = few_sizes;
    int status = -1;
    *plan = NULL;
    if (sources->total > FEW_ENTRIES) {
        entries = PyMem_New(aeb_plan_entry, 2 * (size_t)sources->total);
    }
    if (sources->n > FEW_SOURCES) {
        sizes = PyMem_New(Py_ssize_t, (size_t)sources->n);
    }
    if (entries == NULL || sizes == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    Py_ssize_t n = 0;
    for (Py_ssize_t i = 0; i < sources->n; i++) {
        sizes[i] = copy_source(&sources->items[i], entries + n);
        n += sizes[i];
    }
    const aeb_plan_entry *merged = merge_all(entries, entries + sources->total, sizes, sources->n);
    n = sources->n > 0 ? sizes[0] : 0;

    aeb_plan *fresh = aeb_type_alloc(bus->state->plan_type, n);
    if (fresh == NULL) {
        goto done;
    }
    fresh->name = Py_NewRef(name);
    fresh->counter = (aeb_counter *)Py_NewRef((PyObject *)counter);
    if (version != bus->plans_version) {
        /* The allocation ran a collection, and a finaliser subscribed or cancelled: what is in
         * `merged` may be gone. */
        Py_DECREF(fresh);
        status = 0;
        goto done;
    }
    plan_fill(fresh, merged, n);
    fresh->flags |= bus->plan_flags;
    *plan = fresh;
    status = 1;

done:
    if (entries != few_entries) {
        PyMem_Free(entries);
    }
    if (sizes != few_sizes) {
        PyMem_Free(sizes);
    }
    return status;
}

/* ---- the type --------------------------------------------------------------------------------- */

static int
plan_traverse(aeb_plan *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->counter);
    Py_VISIT(self->made_for);
    for (Py_ssize_t i = 0; i < self->n_entries; i++) {
        Py_VISIT(self->entries[i].sub);
    }
    Py_VISIT(self->check);
    return 0;
}

/* An emission that holds the plan still counts itself, so name and counter stay. */
static int
plan_clear(aeb_plan *self)
{
    Py_ssize_t n = self->n_entries;
    self->n_sync = self->n_entries = 0;
    for (Py_ssize_t i = 0; i < n; i++) {
        Py_CLEAR(self->entries[i].sub);
    }
    Py_CLEAR(self->check);
    return 0;
}

static void
plan_dealloc(aeb_plan *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    (void)plan_clear(self);
    Py_CLEAR(self->counter);
    Py_CLEAR(self->name);
    Py_CLEAR(self->made_for);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

static PyType_Slot plan_slots[] = {
    {Py_tp_dealloc, plan_dealloc},
    {Py_tp_traverse, plan_traverse},
    {Py_tp_clear, plan_clear},
    {0, NULL},
};

static PyType_Spec plan_spec = {
    .name = "agent_event_bus._core.Plan",
    .basicsize = offsetof(aeb_plan, entries),
    .itemsize = sizeof(aeb_plan_entry),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = plan_slots,
};

int
aeb_plan_init_type(PyObject *module, aeb_state *state)
{
    return aeb_state_add_type(module, &plan_spec, &state->plan_type, false);
}
