use std::time::{Duration, Instant};

use crate::browser::Browser;
use crate::server::Server;

const HANGS: [&str; 7] = ["regex", "query", "queries", "lock", "blocking", "upstream", "join"];

/// Each page at the width of a desk and of a phone, in light and in dark.
#[test]
fn the_pages_show_what_hangs_and_why_without_an_error() {
    let Some(mut browser) = Browser::start() else { return };
    let server = Server::start();
    for (width, dark) in [(1280, false), (390, true)] {
        browser.set_width(width);
        browser.set_dark(dark);
        the_first_page_has_a_button_for_each_hang(&mut browser, &server);
        a_pressed_button_ends_with_the_limit(&mut browser);
        reports_have_stacks(&mut browser, &server);
        offenders_are_counted(&mut browser, &server);
        a_flame_graph_has_its_title_and_frames(&mut browser, &server);
        let background = browser.text("getComputedStyle(document.body).backgroundColor");
        assert_eq!(background == "rgb(20, 23, 29)", dark, "{background}");
    }
    assert!(browser.complaints.is_empty(), "{:#?}", browser.complaints);
}

fn the_first_page_has_a_button_for_each_hang(browser: &mut Browser, server: &Server) {
    browser.open(&server.url("/"));
    assert_eq!(browser.text("document.querySelector('h1').textContent"), "Requests that hang");
    for name in HANGS {
        let links = format!(
            "document.querySelectorAll('a[href=\"/hang/{name}\"], a[href=\"/profile/{name}\"]').length"
        );
        assert_eq!(browser.evaluate(&links), 2, "{name}");
    }
    fits(browser);
}

fn a_pressed_button_ends_with_the_limit(browser: &mut Browser) {
    browser.load(|browser| {
        browser.evaluate("document.querySelector('a[href=\"/hang/join\"]').click()");
    });
    assert_eq!(browser.text("document.querySelector('h1').textContent"), "504 Gateway Timeout");
    let error = browser.text("document.querySelector('.error').textContent");
    assert!(error.starts_with("timed out: `GET /hang/join`, limit 500ms, elapsed "), "{error}");
    fits(browser);
}

/// Reports are made on another thread, so they may be late.
fn reports_have_stacks(browser: &mut Browser, server: &Server) {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        browser.open(&server.url("/slow"));
        let reports =
            browser.text("[...document.querySelectorAll('details')].map(it => it.textContent).join('\\n')");
        if reports.contains("slow: `GET /hang/join` open for") && reports.contains("hangs::recommendations") {
            break;
        }
        assert!(Instant::now() < until, "{reports}");
    }
    browser.evaluate("document.querySelectorAll('details').forEach(it => it.open = true)");
    fits(browser);
}

fn offenders_are_counted(browser: &mut Browser, server: &Server) {
    browser.open(&server.url("/offenders"));
    let rows = browser.text("[...document.querySelectorAll('tr')].map(it => it.textContent).join('\\n')");
    assert!(rows.contains("GET /hang/join") && rows.contains("hangs::recommendations"), "{rows}");
    fits(browser);
}

fn a_flame_graph_has_its_title_and_frames(browser: &mut Browser, server: &Server) {
    browser.open(&server.url("/profile/join"));
    assert_eq!(browser.text("document.querySelector('h1').textContent"), "A future stuck in a join!");
    fits(browser);
    let picture = "document.querySelector('iframe').contentDocument";
    assert_eq!(browser.text(&format!("{picture}.querySelector('#title').textContent")), "GET /hang/join");
    let frames =
        format!("[...{picture}.querySelectorAll('#frames title')].map(it => it.textContent).join('\\n')");
    let frames = browser.text(&frames);
    assert!(
        frames.contains("hangs::join::{{closure}}") && frames.contains("hangs::recommendations"),
        "{frames}"
    );
    assert!(frames.contains("[waiting]"), "{frames}");
}

/// No page scrolls sideways.
fn fits(browser: &mut Browser) {
    let overhang =
        browser.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth");
    assert_eq!(overhang, 0, "{}", browser.text("location.pathname"));
}
