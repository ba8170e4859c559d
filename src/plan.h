/* Plans: the handlers that one event reaches, sorted and split once for all its emissions. */
#ifndef AEB_PLAN_H
#define AEB_PLAN_H

#include "bus_object.h"
#include "counter.h"
#include "subscription.h"

/* What a handler is called with. */
typedef enum {
    AEB_FORM_PAYLOAD,      /* (payload): an exact key or a class */
    AEB_FORM_NAME_PAYLOAD, /* (event_name, payload): "*" or a pattern */
    AEB_FORM_EVENT,        /* (Event): envelope=True */
} aeb_form;

typedef struct {
    aeb_subscription *sub; /* strong */
    aeb_form form;
} aeb_plan_entry;

/* What is out of the ordinary about a plan.  Most have nothing, and for those an emission looks at
 * the flags once.  A bus that changes what its plans must have drops the ones it has made. */
typedef enum {
    AEB_PLAN_ENVELOPE = 1 << 0, /* some handler is called with an Event */
    AEB_PLAN_CAREFUL = 1 << 1,  /* the handlers are called by careful.c */
    AEB_PLAN_CHECKED = 1 << 2,  /* the payload is checked first */
    /* These are of all plans of a bus, or of none: see bus->plan_flags. */
    AEB_PLAN_RECORDED = 1 << 8, /* events go into the bus's history */
    AEB_PLAN_TIMED = 1 << 9,    /* how long handlers take is measured: see timing.c */
} aeb_plan_flag;

/* The handlers of one event name: the sync ones in order, then the async ones in order.  Never
 * changed once made; whoever uses one holds a reference, and the registry replaces it. */
typedef struct {
    PyObject_VAR_HEAD
    Py_ssize_t n_sync;
    Py_ssize_t n_entries;
    unsigned flags;       /* aeb_plan_flag */
    PyObject *check;      /* what checks payloads, see schema.h, or NULL */
    aeb_counter *counter; /* strong: of the events of this name */
    PyObject *name;       /* exact str */
    PyObject *made_for;   /* tuple: what is known of the class, see plan_cache.c; NULL for a name */
    aeb_plan_entry entries[1];
} aeb_plan;

int aeb_plan_init_type(PyObject *module, aeb_state *state);

/* Lists of subscriptions, each sorted, that make up a plan.  A list is borrowed: what runs Python
 * code, and before 3.12 what allocates, can end it, and bus->plans_version goes up then. */
typedef struct {
    PyObject *list;
    aeb_form form;
} aeb_source;

typedef struct {
    aeb_source *items;
    Py_ssize_t n;
    Py_ssize_t capacity;
    Py_ssize_t total; /* subscriptions in all of them */
    aeb_source fixed[8];
} aeb_sources;

void aeb_sources_init(aeb_sources *sources);
void aeb_sources_free(aeb_sources *sources);

/* Adds a list of subscriptions; nothing when it is NULL.  0 or -1. */
int aeb_sources_add(aeb_sources *sources, PyObject *list, aeb_form form);

/* Makes a plan of the sources that the bus has in version `version`.  A subscription that stands in
 * several of them is in the plan once, in the form of the first.  1; 0 when the sources have changed
 * meanwhile; -1 with an exception. */
int aeb_plan_new(aeb_bus *bus, PyObject *name, aeb_counter *counter, const aeb_sources *sources,
                 uint64_t version, aeb_plan **plan);

#endif
