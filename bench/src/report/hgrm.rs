//! HdrHistogram's percentile distribution (`outputPercentileDistribution` of the Java original): text that
//! plotters such as hdrhistogram.github.io/HdrHistogram/plotFiles.html read.

use std::fmt::Write;

use hdrhistogram::Histogram;

/// Lines per halving of the distance to 100 %.
const TICKS: u32 = 5;
const US_PER_MS: f64 = 1_000.0;

/// The distribution of `histogram` (microseconds) in milliseconds.
pub(super) fn percentiles(histogram: &Histogram<u64>) -> String {
    let mut out =
        format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    // Writing to a string cannot fail.
    for step in histogram.iter_quantiles(TICKS) {
        let value = step.value_iterated_to() as f64 / US_PER_MS;
        let (quantile, count) =
            (step.quantile_iterated_to(), histogram.count_between(0, step.value_iterated_to()));
        let _ = match quantile < 1.0 {
            true => writeln!(out, "{value:12.3} {quantile:2.12} {count:10} {:14.2}", 1.0 / (1.0 - quantile)),
            false => writeln!(out, "{value:12.3} {quantile:2.12} {count:10}"),
        };
    }
    let (mean, deviation) = (histogram.mean() / US_PER_MS, histogram.stdev() / US_PER_MS);
    let _ = writeln!(out, "#[Mean    = {mean:12.3}, StdDeviation   = {deviation:12.3}]");
    let max = histogram.max() as f64 / US_PER_MS;
    let _ = writeln!(out, "#[Max     = {max:12.3}, Total count    = {:12}]", histogram.len());
    let _ = writeln!(
        out,
        "#[Buckets = {:12}, SubBuckets     = {:12}]",
        histogram.buckets(),
        sub_buckets(histogram)
    );
    out
}

/// As many as two times the resolution asked for, rounded up to a power of two.
fn sub_buckets(histogram: &Histogram<u64>) -> u64 {
    (2 * 10u64.pow(u32::from(histogram.sigfig()))).next_power_of_two()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distribution_is_what_plotters_read() {
        let mut histogram = Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("bounds");
        (1..=1_000u64).for_each(|ms| histogram.record(ms * 1_000).expect("within the bounds"));
        let text = percentiles(&histogram);
        let mut lines = text.lines();
        let head: Vec<&str> = lines.next().unwrap_or_default().split_whitespace().collect();
        assert_eq!(head, ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"]);
        assert_eq!(lines.next(), Some(""));
        let (footer, rows): (Vec<&str>, Vec<&str>) = lines.partition(|line| line.starts_with("#["));
        let parse = |row: &str| row.split_whitespace().map(|n| n.parse::<f64>().expect("a number")).collect();
        let rows: Vec<Vec<f64>> = rows.into_iter().map(parse).collect();
        let (last, others) = rows.split_last().expect("rows");
        assert_eq!(last.len(), 3, "the last has no distance to 100 %");
        assert_eq!((last[1], last[2]), (1.0, 1_000.0));
        assert!((last[0] - 1_000.0).abs() < 1.0);
        for pair in rows.windows(2) {
            assert!(pair[0][0] <= pair[1][0] && pair[0][1] <= pair[1][1] && pair[0][2] <= pair[1][2]);
        }
        for row in others {
            assert!((row[3] - 1.0 / (1.0 - row[1])).abs() <= 0.01 + row[3] * 0.01, "{row:?}");
            assert!((row[2] - row[0]).abs() <= 1.0, "{row:?}: as many as milliseconds");
        }
        assert_eq!(footer.len(), 3);
        assert!(footer[0].starts_with("#[Mean    =") && footer[0].contains("StdDeviation   ="));
        assert!(footer[1].contains("Total count    =         1000]"), "{}", footer[1]);
        assert!(footer[2].contains("SubBuckets     =         2048]"), "{}", footer[2]);
    }
}
