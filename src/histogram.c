/* Histograms of durations: fixed in size whatever is counted, and precise to a few per cent.
 *
 * The buckets are log-linear.  Durations below 8 ns have a bucket each; above, each power of two is
 * parted into eight buckets of equal width, so a bucket is at most an eighth of its lower end wide.
 * A quantile is given as the middle of its bucket, which is at most one sixteenth (6.25 %) away from
 * any duration in it.  Count, sum and maximum are exact.
 */
#include "histogram.h"

/* The middle of a bucket. */
static double
bucket_middle(size_t bucket)
{
    const size_t per_power = (size_t)1 << AEB_HISTOGRAM_PRECISION;
    if (bucket < per_power) {
        return (double)bucket;
    }
    size_t shift = (bucket >> AEB_HISTOGRAM_PRECISION) - 1;
    uint64_t first = (uint64_t)(bucket - (shift << AEB_HISTOGRAM_PRECISION)) << shift;
    uint64_t width = (uint64_t)1 << shift;
    return (double)first + (double)(width - 1) / 2.0;
}

double
aeb_histogram_quantile(const aeb_histogram *histogram, double part)
{
    uint64_t count = AEB_LOAD(histogram->count);
    if (count == 0) {
        return 0.0;
    }
    double wanted = part * (double)count;
    uint64_t seen = 0;
    size_t bucket = 0;
    for (; bucket < AEB_HISTOGRAM_BUCKETS - 1; bucket++) {
        seen += AEB_LOAD(histogram->buckets[bucket]);
        if (seen > 0 && (double)seen >= wanted) {
            break;
        }
    }
    double middle = bucket_middle(bucket), max = (double)AEB_LOAD(histogram->max);
    /* The last bucket is open to above: what is known of it is the maximum. */
    return bucket == AEB_HISTOGRAM_BUCKETS - 1 || middle > max ? max : middle;
}
