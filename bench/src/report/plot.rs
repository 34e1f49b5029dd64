//! A line plot as inline SVG, coloured by the page's style.

use std::fmt::Write;

const WIDTH: f64 = 880.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 72.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 16.0;
const BOTTOM: f64 = 48.0;

/// A line over two axes.
pub(super) struct Plot<'a> {
    /// Read out to those who cannot see it.
    pub(super) title: &'a str,
    pub(super) x_label: &'a str,
    pub(super) y_label: &'a str,
    /// Places on the x axis, and what is written there.
    pub(super) x_ticks: Vec<(f64, String)>,
    /// In rising order of x; y from 0.
    pub(super) points: Vec<(f64, f64)>,
    /// Each point holds until the next.
    pub(super) steps: bool,
}

impl Plot<'_> {
    pub(super) fn svg(&self) -> String {
        let x_min = self.points.first().map_or(0.0, |point| point.0);
        let x_max = self.points.last().map_or(1.0, |point| point.0).max(x_min + 1e-9);
        let y_ticks = nice_ticks(self.points.iter().map(|point| point.1).fold(0.0, f64::max));
        let y_max = y_ticks.last().copied().unwrap_or(1.0);
        let x = |value: f64| LEFT + (value - x_min) / (x_max - x_min) * (WIDTH - LEFT - RIGHT);
        let y = |value: f64| HEIGHT - BOTTOM - value / y_max * (HEIGHT - TOP - BOTTOM);
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        let mut out = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">\n",
            super::html::escape(self.title)
        );
        // Writing to a string cannot fail.
        for tick in &y_ticks {
            let at = y(*tick);
            let text = tick_text(*tick, y_max);
            let _ = writeln!(out, "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{right}\"/>");
            let _ =
                writeln!(out, "<text class=\"end\" x=\"{}\" y=\"{:.1}\">{text}</text>", LEFT - 8.0, at + 4.0);
        }
        for (value, text) in self.x_ticks.iter().filter(|tick| (x_min..=x_max).contains(&tick.0)) {
            let at = x(*value);
            let _ = writeln!(out, "<path class=\"grid\" d=\"M{at:.1} {TOP}V{bottom}\"/>");
            let _ = writeln!(out, "<text class=\"mid\" x=\"{at:.1}\" y=\"{}\">{text}</text>", bottom + 18.0);
        }
        let line = self.path(x, y);
        if let (Some(first), Some(last)) = (self.points.first(), self.points.last()) {
            let (from, to) = (x(first.0), x(last.0));
            let _ = writeln!(out, "<path class=\"area\" d=\"{line}L{to:.1} {bottom}L{from:.1} {bottom}Z\"/>");
            let _ = writeln!(out, "<path class=\"line\" d=\"{line}\"/>");
        }
        let (middle, low) = ((LEFT + right) / 2.0, HEIGHT - 8.0);
        let _ = writeln!(out, "<text class=\"mid name\" x=\"{middle}\" y=\"{low}\">{}</text>", self.x_label);
        let centre = (TOP + bottom) / 2.0;
        let _ = writeln!(
            out,
            "<text class=\"mid name\" transform=\"translate(16 {centre}) rotate(-90)\">{}</text>\n</svg>",
            self.y_label
        );
        out
    }

    fn path(&self, x: impl Fn(f64) -> f64, y: impl Fn(f64) -> f64) -> String {
        let mut out = String::new();
        for (index, point) in self.points.iter().enumerate() {
            let (x, y) = (x(point.0), y(point.1));
            let _ = match index {
                0 => write!(out, "M{x:.1} {y:.1}"),
                _ if self.steps => write!(out, "H{x:.1}V{y:.1}"),
                _ => write!(out, "L{x:.1} {y:.1}"),
            };
        }
        out
    }
}

/// From 0 in steps of 1, 2 or 5 times a power of ten to the first that is not below `max`.
pub(super) fn nice_ticks(max: f64) -> Vec<f64> {
    let max = if max > 0.0 { max } else { 1.0 };
    let rough = max / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= rough);
    let step = step.unwrap_or(power * 10.0);
    let count = (max / step - 1e-9).ceil() as usize;
    (0..=count).map(|index| index as f64 * step).collect()
}

/// As many decimals as the scale needs.
pub(super) fn tick_text(value: f64, max: f64) -> String {
    match max {
        max if max >= 1_000.0 => crate::text::grouped(value.round() as u64),
        max if max >= 10.0 => format!("{value:.0}"),
        max if max >= 1.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_reach_the_top() {
        assert_eq!(nice_ticks(10.0), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(nice_ticks(437.0), [0.0, 100.0, 200.0, 300.0, 400.0, 500.0]);
        assert_eq!(nice_ticks(0.0).len(), 6);
        for max in [0.003, 0.7, 3.3, 99.0, 12_345.0] {
            let ticks = nice_ticks(max);
            assert!(
                ticks.last().is_some_and(|last| *last >= max) && (3..=12).contains(&ticks.len()),
                "{ticks:?}"
            );
        }
    }

    #[test]
    fn every_point_is_drawn() {
        let points = vec![(0.0, 1.0), (1.0, 3.0), (2.0, 2.0)];
        let x_ticks = vec![(0.0, "0".into()), (9.0, "out of sight".into())];
        let plot = Plot { title: "a<b", x_label: "x", y_label: "y", x_ticks, points, steps: false };
        let svg = plot.svg();
        assert!(svg.contains("aria-label=\"a&lt;b\"") && !svg.contains("out of sight"));
        let line = svg.lines().find(|line| line.contains("class=\"line\"")).expect("a line");
        assert_eq!(line.matches('L').count(), 2);
    }
}
