//! Plots as SVG: lines over n, bars, and the spread of samples. Each point tells its value when pointed
//! at, and colours are the page's.

use maud::{Markup, html};

use super::text;

const WIDTH: f64 = 640.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 44.0;
const LINES_HEIGHT: f64 = 320.0;
const BAR_HEIGHT: f64 = 18.0;
const GROUP_GAP: f64 = 16.0;
/// Room for the names of bars' groups above them.
const GROUP_TITLE: f64 = 18.0;
/// Room for the values beside bars.
const VALUE_WIDTH: f64 = 110.0;
const BAR_NAMES: f64 = 178.0;

/// A line.
pub(super) struct Line {
    pub(super) name: &'static str,
    /// The page's class for its colour.
    pub(super) class: String,
    /// By growing x.
    pub(super) points: Vec<(f64, f64)>,
}

/// A bar, made of parts.
pub(super) struct Bar {
    pub(super) name: String,
    pub(super) parts: Vec<Part>,
    /// What is written beside it.
    pub(super) label: String,
}

/// A part of a bar.
pub(super) struct Part {
    pub(super) name: &'static str,
    /// The page's class for its colour.
    pub(super) class: &'static str,
    pub(super) value: f64,
}

impl Bar {
    /// Its length.
    fn value(&self) -> f64 {
        self.parts.iter().map(|part| part.value).sum()
    }
}

/// Bars that belong together.
pub(super) struct Group {
    pub(super) title: String,
    pub(super) bars: Vec<Bar>,
}

/// The spread of a row's samples.
pub(super) struct Spread {
    pub(super) name: String,
    pub(super) class: String,
    /// Least, 5 %, median, 95 %, 99 %, largest.
    pub(super) values: [f64; 6],
}

/// A scale from values to places, logarithmic.
#[derive(Clone, Copy, Debug)]
struct Scale {
    least: f64,
    most: f64,
    from: f64,
    to: f64,
}

impl Scale {
    /// A scale for `values`, from place `from` to place `to`.
    fn for_values(values: impl Iterator<Item = f64> + Clone, (from, to): (f64, f64)) -> Self {
        let most = values.clone().fold(1.0, f64::max);
        let least = values.fold(most, f64::min).max(1.0);
        let most = most.max(least * 1.01);
        Self {
            least: least.log10(),
            most: most.log10(),
            from,
            to,
        }
    }

    /// Begins and ends at round numbers of `base`.
    fn rounded(self, base: f64) -> Self {
        let step = base.log10();
        Self {
            least: (self.least / step + 1e-9).floor() * step,
            most: (self.most / step - 1e-9).ceil() * step,
            ..self
        }
    }

    fn place(self, value: f64) -> f64 {
        let width = (self.most - self.least).max(1e-9);
        let share = (value.max(1e-9).log10() - self.least) / width;
        self.from + share * (self.to - self.from)
    }

    /// Round numbers along it: powers of ten, with 2 and 5 between if there are few.
    fn ticks(self) -> Vec<f64> {
        let steps: &[f64] = if self.most - self.least > 2.5 {
            &[1.0]
        } else {
            &[1.0, 2.0, 5.0]
        };
        let powers = (0..12).map(|power| 10f64.powi(power));
        powers
            .flat_map(|power| steps.iter().map(move |step| step * power))
            .filter(|value| {
                let logarithm = value.log10();
                logarithm >= self.least - 1e-6 && logarithm <= self.most + 1e-6
            })
            .collect()
    }
}

/// Lines over n, both scales logarithmic; `x_ticks` are marked below.
pub(super) fn lines(x_title: &str, y_title: &str, x_ticks: &[f64], lines: &[Line]) -> Markup {
    let points = || lines.iter().flat_map(|line| line.points.iter());
    let x = Scale::for_values(
        points().map(|point| point.0),
        (LEFT + 8.0, WIDTH - RIGHT - 8.0),
    );
    let bottom = LINES_HEIGHT - BOTTOM;
    let y = Scale::for_values(points().map(|point| point.1), (bottom, TOP)).rounded(10f64.sqrt());
    html! {
        svg viewBox=(format!("0 0 {WIDTH} {LINES_HEIGHT}")) role="img" aria-label=(y_title) {
            @for tick in y.ticks() {
                @let at = y.place(tick);
                line .grid x1=(LEFT) x2=(WIDTH - RIGHT) y1=(at) y2=(at) {}
                text .tick x=(LEFT - 6.0) y=(at + 4.0) text-anchor="end" { (text::short(tick)) }
            }
            @for &tick in x_ticks {
                @let at = x.place(tick);
                line .grid x1=(at) x2=(at) y1=(bottom) y2=(bottom + 4.0) {}
                text .tick x=(at) y=(bottom + 17.0) text-anchor="middle" { (tick) }
            }
            text .axis x=((LEFT + WIDTH - RIGHT) / 2.0) y=(LINES_HEIGHT - 6.0) text-anchor="middle" {
                (x_title)
            }
            // The first one comes last, on top of the others.
            @for line in lines.iter().rev() {
                polyline .(line.class) .line points=(points_of(line, x, y)) {}
                @for &(n, value) in &line.points {
                    circle .(line.class) .dot cx=(x.place(n)) cy=(y.place(value)) r="3.5" {
                        title { (line.name) ", " (n) ": " (format!("{value:.0}")) }
                    }
                }
            }
        }
        (legend(lines.iter().map(|line| (line.name, line.class.as_str()))))
    }
}

fn points_of(line: &Line, x: Scale, y: Scale) -> String {
    let place = |&(n, value): &(f64, f64)| format!("{:.1},{:.1}", x.place(n), y.place(value));
    line.points.iter().map(place).collect::<Vec<_>>().join(" ")
}

/// What the colours mean.
pub(super) fn legend<'a>(entries: impl Iterator<Item = (&'a str, &'a str)>) -> Markup {
    html! {
        ul .legend {
            @for (name, class) in entries {
                li { span .swatch .(class) {} (name) }
            }
        }
    }
}

/// Horizontal bars in groups, each group on a scale of its own that begins at 0.
pub(super) fn bars(groups: &[Group]) -> Markup {
    let mut top = 0.0;
    let places: Vec<(f64, &Group)> = groups
        .iter()
        .map(|group| {
            let place = top;
            let bars = u16::try_from(group.bars.len()).unwrap_or(u16::MAX);
            top += title_height(group) + BAR_HEIGHT * f64::from(bars) + GROUP_GAP;
            (place, group)
        })
        .collect();
    let height = top - GROUP_GAP + 4.0;
    html! {
        svg viewBox=(format!("0 0 {WIDTH} {height}")) role="img" {
            @for (top, group) in places {
                @let most = group.bars.iter().map(Bar::value).fold(1e-9, f64::max);
                @if !group.title.is_empty() {
                    text .group x="0" y=(top + 12.0) { (group.title) }
                }
                @for (index, one) in (0u16..).zip(&group.bars) {
                    @let y = top + title_height(group) + BAR_HEIGHT * f64::from(index);
                    (bar(one, y, (WIDTH - BAR_NAMES - VALUE_WIDTH) / most))
                }
            }
        }
    }
}

fn title_height(group: &Group) -> f64 {
    if group.title.is_empty() {
        0.0
    } else {
        GROUP_TITLE
    }
}

fn bar(bar: &Bar, y: f64, scale: f64) -> Markup {
    let mut x = BAR_NAMES;
    let parts: Vec<(f64, f64, &Part)> = bar
        .parts
        .iter()
        .map(|part| {
            let (place, width) = (x, (part.value * scale).max(0.5));
            x += width;
            (place, width, part)
        })
        .collect();
    html! {
        text .tick x=(BAR_NAMES - 6.0) y=(y + 13.0) text-anchor="end" { (bar.name) }
        @for (x, width, part) in parts {
            rect .(part.class) .bar x=(format!("{x:.1}")) y=(y + 1.5) width=(format!("{width:.1}"))
                height=(BAR_HEIGHT - 3.0) {
                title { (bar.name) ", " (part.name) ": " (format!("{:.0}", part.value)) }
            }
        }
        text .value x=(format!("{:.1}", x + 6.0)) y=(y + 13.0) { (bar.label) }
    }
}

/// The spread of samples, each on one line: a thin line from the least to the largest, a box from 5 %
/// to 95 %, a mark at the median and a dot at 99 %.
pub(super) fn spreads(spreads: &[Spread]) -> Markup {
    let values = spreads.iter().flat_map(|spread| spread.values);
    let x = Scale::for_values(values, (BAR_NAMES, WIDTH - RIGHT)).rounded(10f64.powf(0.1));
    let count = u16::try_from(spreads.len()).unwrap_or(u16::MAX);
    let bottom = TOP + 22.0 * f64::from(count);
    let height = bottom + 26.0;
    html! {
        svg viewBox=(format!("0 0 {WIDTH} {height}")) role="img" {
            @for tick in x.ticks() {
                @let at = x.place(tick);
                line .grid x1=(at) x2=(at) y1=(TOP) y2=(bottom) {}
                text .tick x=(at) y=(bottom + 16.0) text-anchor="middle" { (text::short(tick)) }
            }
            @for (index, spread) in (0u16..).zip(spreads) {
                @let y = TOP + 22.0 * f64::from(index) + 11.0;
                @let [least, low, median, high, percentile, most] = spread.values.map(|value| x.place(value));
                text .tick x=(BAR_NAMES - 6.0) y=(y + 4.0) text-anchor="end" { (spread.name) }
                g .(spread.class) {
                    title {
                        (spread.name) ": least " (format!("{:.0}", spread.values[0]))
                        ", median " (format!("{:.0}", spread.values[2]))
                        ", 99 % " (format!("{:.0}", spread.values[4]))
                        ", largest " (format!("{:.0}", spread.values[5]))
                    }
                    line .whisker x1=(least) x2=(most) y1=(y) y2=(y) {}
                    rect .box x=(low) y=(y - 6.0) width=((high - low).max(2.0)) height="12" rx="2" {}
                    line .median x1=(median) x2=(median) y1=(y - 8.0) y2=(y + 8.0) {}
                    circle .dot cx=(percentile) cy=(y) r="3" {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_places_its_ends_and_its_middle() {
        let scale = Scale::for_values([1.0, 100.0].into_iter(), (0.0, 50.0));
        for (value, place) in [(1.0, 0.0), (10.0, 25.0), (100.0, 50.0)] {
            assert!((scale.place(value) - place).abs() < 1e-9);
        }
        assert_eq!(scale.ticks(), [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]);
        // Nothing at all, and zeros, have a scale, too.
        assert!(
            Scale::for_values([].into_iter(), (0.0, 1.0))
                .place(1.0)
                .is_finite()
        );
        assert!(
            Scale::for_values([0.0].into_iter(), (0.0, 1.0))
                .place(0.0)
                .is_finite()
        );
    }

    #[test]
    fn plots_tell_their_values() {
        let line = Line {
            name: "auto",
            class: "auto".to_owned(),
            points: vec![(1.0, 10.0), (512.0, 1000.0)],
        };
        let text = lines("entries", "instructions", &[1.0, 512.0], &[line]).into_string();
        assert!(text.contains("<title>auto, 512: 1000</title>"), "{text}");
        let part = Part {
            name: "all",
            class: "auto",
            value: 3.0,
        };
        let bar = Bar {
            name: "a<b".to_owned(),
            parts: vec![part],
            label: "3".to_owned(),
        };
        let group = Group {
            title: "t".to_owned(),
            bars: vec![bar],
        };
        let text = bars(&[group]).into_string();
        assert!(text.contains("a&lt;b, all: 3"), "{text}");
    }
}
