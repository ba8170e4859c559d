/* The registry: the subscriptions of a bus, listed by key. */
#ifndef AEB_REGISTRY_H
#define AEB_REGISTRY_H

#include "bus_object.h"
#include "plan_cache.h"
#include "subscription.h"

int aeb_registry_init_types(PyObject *module, aeb_state *state);

int aeb_registry_init(aeb_bus *bus);
int aeb_registry_traverse(aeb_bus *bus, visitproc visit, void *arg);
/* Ends every subscription and releases everything. */
void aeb_registry_clear(aeb_bus *bus);
/* The same for a bus that is no more. */
void aeb_registry_free(aeb_bus *bus);

/* Adds a new subscription under each of its keys and makes it active.  0 or -1. */
int aeb_registry_add(aeb_bus *bus, aeb_subscription *sub);

/* Ends a subscription; whether it was active.  Can run finalisers, after the registry is sound. */
bool aeb_registry_end(aeb_subscription *sub);

/* The same, other than for its last delivery; tells a handler that is a listener. */
bool aeb_registry_cancel(aeb_subscription *sub);

/* Whether this delivery may go ahead: false when the subscription has ended.  A once subscription
 * is ended by it, so that exactly one caller gets true. */
static inline bool
aeb_registry_claim(aeb_subscription *sub)
{
    if (AEB_UNLIKELY(!aeb_subscription_is_active(sub))) {
        return false;
    }
    return AEB_LIKELY(!sub->once) || aeb_registry_end(sub);
}

/* The active subscriptions with this normalised key (NULL: all) and handler (NULL: any), in a new list. */
PyObject *aeb_registry_find(aeb_bus *bus, PyObject *key, PyObject *handler);

#endif
