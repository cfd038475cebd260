//! The pages, as HTML that needs no script.

use std::fmt::Display;

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use timebox::TimeoutError;
use timebox::report::{self, Frame, Offender, Report};

use crate::hangs::{HANGS, Hang};
use crate::{LIMIT, PROFILED, TOKEN};

pub(crate) fn page(title: &str, content: &str) -> String {
    let link = |(path, name)| format!("<a href=\"{path}\">{name}</a>");
    let links: String = [("/", "Hangs"), ("/slow", "Slow"), ("/offenders", "Offenders")].map(link).concat();
    let style = include_str!("style.css");
    format!(
        "<!doctype html>
<html lang=\"en\">
<head>
<meta charset=\"utf-8\">
<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">
<title>{title} · timebox</title>
<link rel=\"icon\" href=\"data:,\">
<style>{style}</style>
</head>
<body>
<nav><b>timebox</b>{links}</nav>
<main>
<h1>{title}</h1>
{content}
</main>
</body>
</html>
"
    )
}

/// A value as text in HTML.
pub(crate) fn text(value: impl Display) -> String {
    let mut html = String::new();
    for character in value.to_string().chars() {
        match character {
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '&' => html.push_str("&amp;"),
            '"' => html.push_str("&quot;"),
            other => html.push(other),
        }
    }
    html
}

pub(crate) async fn index() -> Html<String> {
    let card = |Hang { name, title, story, rescue }: &Hang| {
        format!(
            "<article>
<h2>{title}</h2>
<p>{story}</p>
<p class=\"rescue\">{rescue}</p>
<p class=\"actions\"><a class=\"button\" href=\"/hang/{name}\">Press</a> <a href=\"/profile/{name}\">Flame graph</a></p>
</article>"
        )
    };
    let cards: String = HANGS.iter().map(card).collect();
    let intro = "Each of these requests takes far too long, or for ever.";
    let content = format!(
        "<p>{intro} Each is stopped after {LIMIT:?}, and answers by itself.</p><div class=\"cards\">{cards}</div>"
    );
    Html(page("Requests that hang", &content))
}

pub(crate) fn timed_out(status: StatusCode, error: &TimeoutError) -> Response {
    let report =
        error.report().map(|report| format!("<h2>What it was doing</h2><pre>{}</pre>", text(report)));
    let content = format!(
        "<p class=\"error\">{}</p>
<p>The server is as it was: no thread, lock or connection is left behind.</p>
<p class=\"actions\"><a class=\"button\" href=\"/\">Back</a> <a href=\"/slow\">Reports</a></p>
{}",
        text(error),
        report.unwrap_or_default()
    );
    (status, Html(page(&text(status), &content))).into_response()
}

pub(crate) async fn slow() -> Html<String> {
    let reports = report::recent();
    let list: String = reports.iter().rev().map(|report| details(report)).collect();
    let intro = match reports.len() {
        0 => "No report yet: press a button first.",
        _ => "The last reports, the newest first. Open one to see its stack.",
    };
    Html(page("Slow requests", &format!("<p>{intro}</p>{list}")))
}

fn details(report: &Report) -> String {
    let headline = text(report.headline());
    format!("<details><summary>{headline}</summary><pre>{}</pre></details>", text(report))
}

pub(crate) async fn offenders() -> Html<String> {
    let row = |Offender { frames, scope, total, .. }: &Offender| {
        let frames: String = frames.iter().map(place).collect();
        let (count, sum, worst) = (total.count, total.total, total.worst);
        let label = text(scope.label().unwrap_or_default());
        format!(
            "<tr><td>{count}</td><td>{sum:.1?}</td><td>{worst:.1?}</td><td><b>{label}</b>{frames}</td></tr>"
        )
    };
    let rows: String = report::offenders().stacks.iter().map(row).collect();
    let head = "<tr><th>Count</th><th>Total</th><th>Worst</th><th>Where</th></tr>";
    let intro = "Which code was slow, since the server started.";
    let table = format!("<p>{intro}</p><div class=\"wide\"><table>{head}{rows}</table></div>");
    Html(page("Offenders", &table))
}

fn place(frame: &Frame) -> String {
    let file = frame.file.as_deref().unwrap_or_default();
    let line = frame.line.map(|line| format!(":{line}")).unwrap_or_default();
    format!("<div><code>{}</code> {}{line}</div>", text(&frame.function), text(file))
}

/// The request itself answers with its flame graph, since its URL has the token.
pub(crate) async fn profile(Path(name): Path<String>) -> Response {
    let Some(Hang { title, .. }) = HANGS.iter().find(|hang| hang.name == name) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let source = format!("/hang/{name}?__profile={TOKEN}");
    let content = format!(
        "<p>The same request, for once with {PROFILED:?}, and sampled: at no cost to all other requests. Blue is waiting.
<a href=\"{source}\">Without the frame</a></p>
<iframe src=\"{source}\" title=\"Flame graph\"></iframe>"
    );
    Html(page(title, &content)).into_response()
}
