/* Histograms of durations: fixed in size whatever is counted, and precise to a few per cent. */
#ifndef AEB_HISTOGRAM_H
#define AEB_HISTOGRAM_H

#include "compat.h"

/* Every power of two is parted into 2^3 buckets of equal width. */
#define AEB_HISTOGRAM_PRECISION 3
/* Durations from 2^48 ns (78 hours) on share the last bucket. */
#define AEB_HISTOGRAM_BITS 48
#define AEB_HISTOGRAM_BUCKETS                                                                      \
    ((AEB_HISTOGRAM_BITS - AEB_HISTOGRAM_PRECISION + 1) << AEB_HISTOGRAM_PRECISION)

/* All durations are in nanoseconds. */
typedef struct {
    AEB_SHARED uint64_t count;
    AEB_SHARED uint64_t sum;
    AEB_SHARED uint64_t max;
    AEB_SHARED uint64_t buckets[AEB_HISTOGRAM_BUCKETS];
} aeb_histogram;

/* The bucket that a duration is counted in. */
static inline size_t
aeb_histogram_bucket(uint64_t duration)
{
    if (AEB_UNLIKELY(duration < (1u << AEB_HISTOGRAM_PRECISION))) {
        return (size_t)duration;
    }
    if (AEB_UNLIKELY(duration >> AEB_HISTOGRAM_BITS)) {
        return AEB_HISTOGRAM_BUCKETS - 1;
    }
    unsigned shift = aeb_highest_bit(duration) - AEB_HISTOGRAM_PRECISION;
    return ((size_t)shift << AEB_HISTOGRAM_PRECISION) + (size_t)(duration >> shift);
}

static inline void
aeb_histogram_add(aeb_histogram *histogram, uint64_t duration)
{
    (void)AEB_ADD(histogram->count, 1);
    (void)AEB_ADD(histogram->sum, duration);
    aeb_raise_to(&histogram->max, duration);
    (void)AEB_ADD(histogram->buckets[aeb_histogram_bucket(duration)], 1);
}

/* A duration that the given part (0 to 1) of all counted ones do not exceed: the middle of the
 * bucket where that is reached, but never more than the longest one.  0 when there are none. */
double aeb_histogram_quantile(const aeb_histogram *histogram, double part);

#endif
