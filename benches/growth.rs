//! How costs grow with the number of agents: of passes, of an edit, of `status` and of what the admin page asks for.
//!
//! `cargo bench --bench growth -- [--quick] [agents…]` (1,000, 10,000 and 100,000 unless told; `--quick`: up to 10,000). Besides the
//! figures it draws `target/bench/growth.svg`, of which docs/growth.svg is a copy.

mod support;

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::edits::{TELL, agents, listen, one, percentile};
use support::passes::{run, server};
use support::report::{Line, Report};
use support::server::Server;
use support::{AnyError, Arguments, connect};

/// What is measured at each size, in this order, and its color.
const WORK: [(&str, &str); 5] = [
    ("cold pass", "#b3432b"),
    ("warm pass", "#c98a1b"),
    ("`agent-sync status`", "#4a7d3a"),
    ("admin page", "#2f6f9f"),
    ("one edit → assistant, p50", "#6b4a9f"),
];

/// So many edits, and so many requests of the page.
const EDITS: u64 = 60;
const PAGES: usize = 9;

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    let sizes = Arguments::of_this_process().sizes(&[1_000, 10_000, 100_000]);
    let mut report = Report::new("growth");
    let mut grown = Vec::new();
    for size in sizes {
        let costs = grow(size).await?;
        for ((work, _), cost) in WORK.iter().zip(&costs) {
            let each = cost.as_secs_f64() * 1e6 / f64::from(size);
            report.line(Line {
                work: format!("{work}, {size} agents; µs for each of them"),
                ours: format!("{:.2} ms", cost.as_secs_f64() * 1e3),
                floor: None,
                figure: Some(each),
                target: None,
            });
        }
        grown.push((size, costs));
    }
    report.finish()?;
    let plot = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench/growth.svg");
    fs::write(plot, draw(&grown)?)?;
    Ok(())
}

/// What each of [`WORK`] takes.
async fn grow(size: u32) -> Result<[Duration; WORK.len()], AnyError> {
    let postgres = server(size).await?;
    let url = postgres.url("template");
    let client = connect(&url).await?;
    let mut passes = [Duration::ZERO; 2];
    for pass in &mut passes {
        for chore in ["vacuum analyze", "checkpoint"] {
            client.batch_execute(chore).await?;
        }
        let started = Instant::now();
        run(&url).await?;
        *pass = started.elapsed();
    }

    let worker = Server::start(&url, "all")?;
    worker.ready().await?;
    client.batch_execute(TELL).await?;
    let (listener, mut written) = listen(&url, "written").await?;
    let enable = "alter table langgraph_server.assistants enable trigger tell";
    listener.batch_execute(enable).await?;
    let agents = agents(&client).await?;
    let mut edits = Vec::new();
    for n in 0..EDITS {
        let agent = agents[n as usize * 7919 % agents.len()];
        let took = one(&client, agent, n, &mut written).await?;
        // The first ones open connections and read catalogs.
        if n >= EDITS / 6 {
            edits.push(took);
        }
    }
    let mut statuses = Vec::new();
    for _ in 0..PAGES {
        let started = Instant::now();
        let status = Command::new(env!("CARGO_BIN_EXE_agent-sync"))
            .arg("status")
            .env("DATABASE_URL", &url)
            .env("AGENT_SYNC_SCOPE", "all")
            .stdout(Stdio::null())
            .status()?;
        if !matches!(status.code(), Some(0 | 2)) {
            return Err(format!("`agent-sync status` ended with {status}").into());
        }
        statuses.push(started.elapsed());
    }
    let mut pages = Vec::new();
    for _ in 0..PAGES {
        // Its status counts for three seconds.
        tokio::time::sleep(Duration::from_millis(3_100)).await;
        let started = Instant::now();
        for path in ["/", "/status", "/history", "/agents"] {
            let answer = worker.get(path).await?;
            if !answer.starts_with("HTTP/1.1 200") {
                return Err(format!("{path}: {answer}").into());
            }
        }
        pages.push(started.elapsed());
    }
    drop(worker);
    postgres.stop();
    let [cold, warm] = passes;
    let median = |times: &mut [Duration]| percentile(times, 50);
    Ok([
        cold,
        warm,
        median(&mut statuses),
        median(&mut pages),
        median(&mut edits),
    ])
}

/// Both axes are logarithmic: what grows with the agents is a line as steep as the dashed ones, what does not grow is flat.
fn draw(grown: &[(u32, [Duration; WORK.len()])]) -> Result<String, std::fmt::Error> {
    const WIDTH: f64 = 760.0;
    const HEIGHT: f64 = 420.0;
    const LEFT: f64 = 70.0;
    const RIGHT: f64 = 180.0;
    const TOP: f64 = 20.0;
    const BOTTOM: f64 = 50.0;
    let sizes: Vec<f64> = grown
        .iter()
        .map(|(size, _)| f64::from(*size).log10())
        .collect();
    let times: Vec<f64> = grown
        .iter()
        .flat_map(|(_, costs)| costs.iter().map(|cost| cost.as_secs_f64().log10()))
        .collect();
    let bounds = |values: &[f64]| {
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        (least.floor(), most.ceil().max(least.floor() + 1.0))
    };
    let ((x0, x1), (y0, y1)) = (bounds(&sizes), bounds(&times));
    let x = |size: f64| LEFT + (size - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT);
    let y = |time: f64| HEIGHT - BOTTOM - (time - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM);
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="system-ui, sans-serif" font-size="13">
<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>
"##
    );
    let mut line = |from: (f64, f64), to: (f64, f64), style: &str| {
        let ((x1, y1), (x2, y2)) = (from, to);
        writeln!(
            svg,
            r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" {style}/>"#
        )
    };
    let grid = r##"stroke="#ddd""##;
    for n in 0..=(x1 - x0) as i32 {
        let at = x(x0 + f64::from(n));
        line((at, y(y0)), (at, y(y1)), grid)?;
    }
    for n in 0..=(y1 - y0) as i32 {
        let at = y(y0 + f64::from(n));
        line((x(x0), at), (x(x1), at), grid)?;
        // As steep as what grows with the agents, as far as it is within the frame.
        let (from, steps) = (y0 + f64::from(n), (y1 - y0 - f64::from(n)).min(x1 - x0));
        let dashed = r##"stroke="#ddd" stroke-dasharray="4 4""##;
        line((x(x0), y(from)), (x(x0 + steps), y(from + steps)), dashed)?;
    }
    for n in 0..=(x1 - x0) as i32 {
        let (at, size) = (x0 + f64::from(n), 10f64.powf(x0 + f64::from(n)));
        let (x, y) = (x(at), y(y0) + 20.0);
        writeln!(
            svg,
            r#"<text x="{x:.1}" y="{y:.1}" text-anchor="middle">{size:.0}</text>"#
        )?;
    }
    for n in 0..=(y1 - y0) as i32 {
        let (at, ms) = (y0 + f64::from(n), 10f64.powf(y0 + f64::from(n) + 3.0));
        let said = match ms {
            1_000.0.. => format!("{:.0} s", ms / 1e3),
            _ => format!("{ms:.0} ms"),
        };
        let (x, y) = (LEFT - 8.0, y(at) + 4.0);
        writeln!(
            svg,
            r#"<text x="{x:.1}" y="{y:.1}" text-anchor="end">{said}</text>"#
        )?;
    }
    let (middle, below) = (x((x0 + x1) / 2.0), HEIGHT - 10.0);
    writeln!(
        svg,
        r#"<text x="{middle:.1}" y="{below:.1}" text-anchor="middle">agents</text>"#
    )?;
    for (n, (work, color)) in WORK.iter().enumerate() {
        let mut points = String::new();
        for ((_, costs), size) in grown.iter().zip(&sizes) {
            let (x, y) = (x(*size), y(costs[n].as_secs_f64().log10()));
            write!(points, "{x:.1},{y:.1} ")?;
            writeln!(
                svg,
                r#"<circle cx="{x:.1}" cy="{y:.1}" r="3.5" fill="{color}"/>"#
            )?;
        }
        let points = points.trim_end();
        writeln!(
            svg,
            r#"<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>"#
        )?;
        if let (Some((_, costs)), Some(size)) = (grown.last(), sizes.last()) {
            let (x, y) = (x(*size) + 10.0, y(costs[n].as_secs_f64().log10()) + 4.0);
            let work = work.trim_matches('`');
            writeln!(
                svg,
                r#"<text x="{x:.1}" y="{y:.1}" fill="{color}">{work}</text>"#
            )?;
        }
    }
    svg.push_str("</svg>\n");
    Ok(svg)
}
