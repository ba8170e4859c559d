/* Weakly held handlers: subscriptions that end when nobody else keeps their handler. */
#ifndef AEB_WEAK_H
#define AEB_WEAK_H

#include "subscription.h"

/* Makes a new subscription hold this handler weakly.  0, or -1 with TypeError for one that would be
 * gone at once or cannot be weakly referenced. */
int aeb_weak_hold(aeb_subscription *sub, PyObject *handler);

/* Has sub._vanish() called when the handler dies, until aeb_weak_unwatch().  0 or -1. */
int aeb_weak_watch(aeb_subscription *sub);
void aeb_weak_unwatch(aeb_subscription *sub);

/* The handler of a weak subscription, a new reference; NULL, with or without an exception, when it
 * is gone. */
PyObject *aeb_weak_handler(aeb_subscription *sub);

/* Whether `handler` is the handler of a weak subscription.  Runs no Python code. */
bool aeb_weak_same_handler(aeb_subscription *sub, PyObject *handler);

#endif
