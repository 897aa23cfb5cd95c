//! One chart as SVG: panels that share the axis of time, or of percentiles.

use std::fmt::Write;

use serde_json::json;

use super::axis::Axis;
use super::markup::{escaped, script_json};
use super::timeline::Span;
use crate::measures::Unit;

/// Size of a chart in its own units, which are about pixels on a desktop.
const WIDTH: f64 = 540.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 16.0;
const BOTTOM: f64 = 46.0;
/// Above each panel, for the name of its axis.
const HEAD: f64 = 28.0;
/// For the strip that tells which turn is where.
const STRIP: f64 = 20.0;
/// Least width at which a turn's strip carries text, for each letter.
const LETTER: f64 = 8.6;
/// Points drawn of one line: about two for each pixel.
const POINTS_MAX: usize = 800;

/// A chart, or why there is none.
pub enum Chart {
    /// It is drawn.
    Drawn(Box<Drawing>),
    /// There is nothing to draw.
    Absent {
        /// What it would show.
        title: &'static str,
        /// Why it does not.
        why: String,
    },
}

/// A chart that has something to show.
pub struct Drawing {
    /// What it shows.
    pub title: &'static str,
    /// What it says, for those who cannot see it.
    pub summary: String,
    /// The axis that all panels share.
    pub x: Axis,
    /// What follows the value of x under the pointer: `s`, `%`.
    pub x_unit: &'static str,
    /// One above the other.
    pub panels: Vec<Panel>,
    /// What the colours mean: style and name.
    pub legend: Vec<(String, String)>,
    /// Turns to tell apart along the axis.
    pub spans: Vec<Span>,
    /// A word on what cannot be seen.
    pub note: Option<String>,
}

/// Lines over one vertical axis.
pub struct Panel {
    /// That axis.
    pub y: Axis,
    /// What values are shown in under the pointer.
    pub unit: Unit,
    /// The lines.
    pub lines: Vec<Line>,
}

/// One line, which may have holes.
pub struct Line {
    /// What it is, under the pointer.
    pub name: String,
    /// Class of its style.
    pub style: String,
    /// Its parts.
    pub runs: Vec<Vec<(f64, f64)>>,
}

/// Where a panel stands.
struct Frame {
    top: f64,
    height: f64,
}

impl Chart {
    /// A figure of its own, script values included.
    pub fn markup(&self) -> String {
        match self {
            Chart::Drawn(drawing) => drawing.markup(),
            Chart::Absent { title, why } => format!(
                "<figure class=\"absent\">\n<figcaption>{title}</figcaption>\n\
                 <p class=\"why\">{}</p>\n</figure>\n",
                escaped(why)
            ),
        }
    }
}

impl Drawing {
    fn markup(&self) -> String {
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" tabindex=\"0\" \
             aria-label=\"{}\">\n",
            escaped(&format!("{}. {}", self.title, self.summary))
        );
        let frames = self.frames();
        self.draw_spans(&frames, &mut svg);
        for (panel, frame) in self.panels.iter().zip(&frames) {
            draw_y(&panel.y, frame, &mut svg);
        }
        self.draw_x(&mut svg);
        for (panel, frame) in self.panels.iter().zip(&frames) {
            for line in &panel.lines {
                self.draw_line(line, &panel.y, frame, &mut svg);
            }
        }
        svg.push_str("<g class=\"hover\"></g>\n</svg>");
        let legend: String = self
            .legend
            .iter()
            .map(|(style, name)| format!("<li><i class=\"{style}\"></i>{}</li>", escaped(name)))
            .collect();
        let note = self.note.as_ref().map_or(String::new(), |note| {
            format!("<p class=\"note\">{}</p>\n", escaped(note))
        });
        format!(
            "<figure>\n<figcaption>{}</figcaption>\n<ul class=\"legend\">{legend}</ul>\n\
             <div class=\"plot\">{svg}\n<script type=\"application/json\">{}</script></div>\n\
             {note}</figure>\n",
            self.title,
            self.values(&frames),
        )
    }

    fn frames(&self) -> Vec<Frame> {
        let strip = if self.spans.len() > 1 { STRIP } else { 0.0 };
        let count = self.panels.len().max(1) as f64;
        let each = (HEIGHT - BOTTOM - strip) / count;
        let frames = (0..self.panels.len()).map(|index| Frame {
            top: strip + each * index as f64 + HEAD,
            height: each - HEAD,
        });
        frames.collect()
    }

    /// The windows of measurement, shaded, and above them which turn is where.
    fn draw_spans(&self, frames: &[Frame], svg: &mut String) {
        for span in &self.spans {
            if let Some((from, to)) = span.window {
                let (left, right) = (self.across(from), self.across(to));
                for frame in frames {
                    let (top, height) = (frame.top, frame.height);
                    let width = right - left;
                    push(
                        svg,
                        format_args!(
                            "<rect class=\"window\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"/>\n"
                        ),
                    );
                }
            }
            if self.spans.len() > 1 {
                self.draw_span_name(span, svg);
            }
        }
    }

    fn draw_span_name(&self, span: &Span, svg: &mut String) {
        let (left, right) = (self.across(span.from_s), self.across(span.to_s));
        let (width, middle) = (right - left, f64::midpoint(left, right));
        let colour = span.group % 6;
        push(
            svg,
            format_args!(
                "<rect class=\"f{colour}\" x=\"{left:.1}\" y=\"16\" width=\"{width:.1}\" height=\"3\" rx=\"1.5\"/>\n"
            ),
        );
        let number = span.number.to_string();
        let fits = |text: &str| text.chars().count() as f64 * LETTER <= width;
        let name = [span.name.as_str(), number.as_str()]
            .into_iter()
            .find(|text| fits(text));
        if let Some(name) = name {
            push(
                svg,
                format_args!(
                    "<text class=\"turn\" x=\"{middle:.1}\" y=\"11\">{}</text>\n",
                    escaped(name)
                ),
            );
        }
    }

    fn draw_x(&self, svg: &mut String) {
        let y = HEIGHT - BOTTOM;
        for tick in &self.x.ticks {
            let x = LEFT + tick.position * (WIDTH - LEFT - RIGHT);
            push(
                svg,
                format_args!(
                    "<path class=\"tick\" d=\"M{x:.1} {y}v4\"/><text class=\"x\" x=\"{x:.1}\" y=\"{:.1}\">{}</text>\n",
                    y + 18.0,
                    tick.label
                ),
            );
        }
        push(
            svg,
            format_args!(
                "<text class=\"title end\" x=\"{:.1}\" y=\"{:.1}\">{}</text>\n",
                WIDTH - RIGHT,
                y + 37.0,
                escaped(&self.x.title)
            ),
        );
    }

    fn draw_line(&self, line: &Line, y: &Axis, frame: &Frame, svg: &mut String) {
        let mut path = String::new();
        for run in &line.runs {
            for (index, point) in thinned(run).into_iter().enumerate() {
                let (x, y) = self.place(point, y, frame);
                let command = if index == 0 { 'M' } else { 'L' };
                push(&mut path, format_args!("{command}{x:.1} {y:.1}"));
            }
            if run.len() == 1 {
                // A round cap makes a dot of it.
                path.push_str("h0");
            }
        }
        push(
            svg,
            format_args!("<path class=\"line {}\" d=\"{path}\"/>\n", line.style),
        );
    }

    /// What the script shows: for each line its style, its name, and x, y and both in words.
    fn values(&self, frames: &[Frame]) -> String {
        let mut lines = Vec::new();
        for (panel, frame) in self.panels.iter().zip(frames) {
            for line in &panel.lines {
                let points = line.runs.iter().flat_map(|run| thinned(run)).map(|point| {
                    let (x, y) = self.place(point, &panel.y, frame);
                    let at = format!(
                        "{:.*} {}",
                        decimals(self.x_unit, point.0),
                        point.0,
                        self.x_unit
                    );
                    json!([round(x), round(y), at, panel.unit.show(point.1)])
                });
                let points: Vec<_> = points.collect();
                lines.push(json!({"s": line.style, "n": line.name, "p": points}));
            }
        }
        script_json(&json!(lines))
    }

    fn across(&self, x: f64) -> f64 {
        LEFT + self.x.position(x) * (WIDTH - LEFT - RIGHT)
    }

    fn place(&self, (x, y): (f64, f64), axis: &Axis, frame: &Frame) -> (f64, f64) {
        let up = axis.position(y) * frame.height;
        (self.across(x), frame.top + frame.height - up)
    }
}

fn draw_y(y: &Axis, frame: &Frame, svg: &mut String) {
    let right = WIDTH - RIGHT;
    for tick in &y.ticks {
        let at = frame.top + frame.height * (1.0 - tick.position);
        let class = if tick.position == 0.0 { "base" } else { "grid" };
        push(
            svg,
            format_args!(
                "<path class=\"{class}\" d=\"M{LEFT} {at:.1}H{right}\"/><text class=\"y\" x=\"{:.1}\" y=\"{:.1}\">{}</text>\n",
                LEFT - 8.0,
                at + 4.0,
                tick.label
            ),
        );
    }
    push(
        svg,
        format_args!(
            "<text class=\"title\" x=\"{LEFT}\" y=\"{:.1}\">{}</text>\n",
            frame.top - 9.0,
            escaped(&y.title)
        ),
    );
}

/// Fewer points, with the least and the most of what each stands for.
fn thinned(run: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if run.len() <= POINTS_MAX {
        return run.to_vec();
    }
    let share = run.len().div_ceil(POINTS_MAX / 2);
    let mut points = Vec::with_capacity(POINTS_MAX + 2);
    for chunk in run.chunks(share) {
        let least = chunk.iter().min_by(|a, b| a.1.total_cmp(&b.1));
        let most = chunk.iter().max_by(|a, b| a.1.total_cmp(&b.1));
        let mut ends: Vec<(f64, f64)> = least.into_iter().chain(most).copied().collect();
        ends.sort_by(|a, b| a.0.total_cmp(&b.0));
        points.extend(ends);
    }
    points
}

fn decimals(unit: &str, value: f64) -> usize {
    match unit {
        "%" if value >= 99.99 => 4,
        "%" if value >= 99.0 => 3,
        _ => 2,
    }
}

fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

fn push(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a String does not fail.
    let _ = text.write_fmt(arguments);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawing(runs: Vec<Vec<(f64, f64)>>) -> Drawing {
        Drawing {
            title: "T",
            summary: "s".into(),
            x: Axis::seconds(0.0, 10.0, "seconds"),
            x_unit: "s",
            panels: vec![Panel {
                y: Axis::from_zero(100.0, Unit::Count, "things", 4),
                unit: Unit::Count,
                lines: vec![Line {
                    name: "n".into(),
                    style: "c0".into(),
                    runs,
                }],
            }],
            legend: Vec::new(),
            spans: Vec::new(),
            note: None,
        }
    }

    #[test]
    fn a_line_goes_from_corner_to_corner_of_its_frame() {
        let drawing = drawing(vec![vec![(0.0, 0.0), (10.0, 100.0)]]);
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        let path = format!("d=\"M{LEFT:.1} {bottom:.1}L{right:.1} {HEAD:.1}\"");
        assert!(drawing.markup().contains(&path), "{}", drawing.markup());
    }

    #[test]
    fn thinning_keeps_both_extremes() {
        let run: Vec<(f64, f64)> = (0..100_000)
            .map(|at| (f64::from(at), f64::from(at % 977)))
            .collect();
        let points = thinned(&run);
        assert!(points.len() <= POINTS_MAX + 2, "{}", points.len());
        assert!(points.iter().any(|point| point.1 == 976.0));
        assert!(points.iter().any(|point| point.1 == 0.0));
        assert!(points.windows(2).all(|pair| pair[0].0 <= pair[1].0));
    }

    #[test]
    fn a_lone_point_is_a_dot() {
        assert!(drawing(vec![vec![(5.0, 50.0)]]).markup().contains("h0\"/>"));
    }

    #[test]
    fn an_absent_chart_says_why() {
        let chart = Chart::Absent {
            title: "T",
            why: "because <it> is".into(),
        };
        assert!(chart.markup().contains("because &lt;it&gt; is"));
    }
}
