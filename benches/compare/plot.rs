//! Latency percentiles of both sides as a picture: one small diagram for each workload, plain SVG.
//!
//! Both axes are logarithmic: the one towards ever rarer requests (50 %, 90 %, 99 %, …), the other in milliseconds.

use crate::rounds::Run;
use hdrhistogram::Histogram;
use std::fmt::Write as _;

const WIDTH: f64 = 430.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 56.0;
const TOP: f64 = 34.0;
const RIGHT: f64 = 16.0;
const BOTTOM: f64 = 40.0;
const COLUMNS: usize = 2;
const PERCENTILES: [f64; 5] = [0.0, 90.0, 99.0, 99.9, 99.99];

/// One diagram.
pub struct Panel<'a> {
    pub title: &'a str,
    pub redis: &'a [Run],
    pub ours: &'a [Run],
}

/// The whole picture.
pub fn svg(panels: &[Panel<'_>]) -> String {
    let rows = panels.len().div_ceil(COLUMNS);
    let (width, height) = (WIDTH * COLUMNS as f64, HEIGHT * rows as f64 + 30.0);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"16\" y=\"20\" font-size=\"13\">Latency by percentile, ms: \
         <tspan fill=\"#c0392b\">Redis 7.0 with WAIT 1</tspan>, <tspan fill=\"#1f6fb2\">Quorate</tspan></text>\n"
    );
    for (number, panel) in panels.iter().enumerate() {
        let (x, y) = ((number % COLUMNS) as f64 * WIDTH, (number / COLUMNS) as f64 * HEIGHT + 30.0);
        let _ = writeln!(out, "<g transform=\"translate({x} {y})\">");
        draw(panel, &mut out);
        out.push_str("</g>\n");
    }
    out.push_str("</svg>\n");
    out
}

fn draw(panel: &Panel<'_>, out: &mut String) {
    let curves = [("#c0392b", merged(panel.redis)), ("#1f6fb2", merged(panel.ours))];
    let points: Vec<(&str, Vec<(f64, f64)>)> =
        curves.iter().filter_map(|(colour, all)| Some((*colour, curve(all.as_ref()?)))).collect();
    let values = || points.iter().flat_map(|(_, curve)| curve.iter().map(|(_, ms)| *ms));
    let low = values().fold(f64::INFINITY, f64::min).max(1e-3).log10().floor();
    let high = values().fold(0.0_f64, f64::max).max(1e-2).log10().ceil().max(low + 1.0);
    let place_y = |ms: f64| {
        let share = (ms.max(1e-3).log10() - low) / (high - low);
        HEIGHT - BOTTOM - share.clamp(0.0, 1.0) * (HEIGHT - BOTTOM - TOP)
    };
    let _ = writeln!(out, "<text x=\"{LEFT}\" y=\"22\" font-size=\"12\">{}</text>", panel.title);
    for exponent in low as i32..=high as i32 {
        let (ms, y) = (10_f64.powi(exponent), place_y(10_f64.powi(exponent)));
        let end = WIDTH - RIGHT;
        let _ = writeln!(out, "<path d=\"M{LEFT} {y:.1}H{end}\" stroke=\"#ddd\"/>");
        let _ = writeln!(out, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{ms}</text>", LEFT - 6.0, y + 4.0);
    }
    for percentile in PERCENTILES {
        let (x, bottom) = (place_x(percentile), HEIGHT - BOTTOM);
        let _ = writeln!(out, "<path d=\"M{x:.1} {TOP}V{bottom}\" stroke=\"#ddd\"/>");
        let y = bottom + 16.0;
        let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{percentile} %</text>");
    }
    for (colour, curve) in &points {
        let path: Vec<String> =
            curve.iter().map(|(percentile, ms)| format!("{:.1},{:.1}", place_x(*percentile), place_y(*ms))).collect();
        let path = path.join(" ");
        let _ = writeln!(out, "<polyline points=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>");
    }
}

fn place_x(percentile: f64) -> f64 {
    // 0 at the left edge, one step to the right for each further nine, the last at 99.99 %.
    let nines = -(1.0 - percentile / 100.0).max(1e-4).log10();
    LEFT + nines / 4.0 * (WIDTH - LEFT - RIGHT)
}

fn merged(runs: &[Run]) -> Option<Histogram<u64>> {
    let mut all = runs.first()?.load.latency.clone();
    runs[1..].iter().for_each(|run| all += &run.load.latency);
    Some(all)
}

fn curve(latency: &Histogram<u64>) -> Vec<(f64, f64)> {
    (0..=80)
        .map(|step| {
            let percentile = 100.0 * (1.0 - 10_f64.powf(-f64::from(step) / 20.0));
            (percentile, latency.value_at_percentile(percentile) as f64 / 1e6)
        })
        .collect()
}
