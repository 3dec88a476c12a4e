//! The page for people, in a real Chromium, of a real worker.
//!
//! Every test ends by asking the browser what it complains of: nothing that throws, nothing that the page's own policy refuses.

use agent_sync::config::{ADMIN_ADDR, SCOPE};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::binary::{FREE_PORTS, Running};
use crate::support::browser::{Browser, ENTER, RIGHT, SHIFT, TAB};
use crate::support::database::Role;
use crate::support::proxy::Proxy;
use crate::support::worker::exchange;
use crate::support::{TestDatabase, TestWorker};

const ALL: &[(&str, &str)] = &[(SCOPE, "all")];
const HEALTH: &str = "#word";
const ROWS: &str = "#rows tr";
const STREAM: &str = "#stream";

impl TestDatabase {
    /// As an operator does it.
    async fn psql(&self, statement: &str) {
        let done = Command::new("psql")
            .args([
                &self.superuser_url,
                "-X",
                "-q",
                "-v",
                "ON_ERROR_STOP=1",
                "-c",
                statement,
            ])
            .output()
            .await
            .expect("psql");
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{said}");
    }

    /// Active agents named `agent 1` to `agent <n>`.
    async fn many_agents(&self, n: u32) {
        self.execute(&format!(
            "insert into public.agents (name, status, system_prompt)
             select 'agent ' || n, 'active', 'You are ' || n from generate_series(1, {n}) as n"
        ))
        .await;
    }
}

/// A browser on the worker's page, when it shows how things are.
async fn page(worker: &TestWorker, health: &str) -> Browser {
    let browser = Browser::start().await;
    browser.open(&format!("http://{}/", worker.admin)).await;
    browser.shows(HEALTH, health).await;
    browser
}

/// Nothing was wrong, all the time. What the network did is known, where that is the test.
async fn at_peace(browser: Browser) {
    assert_eq!(browser.complaints().await, [] as [&str; 0]);
    browser.close().await;
}

#[tokio::test]
async fn an_edit_in_psql_appears_by_itself() {
    let db = TestDatabase::new().await;
    let agent = db.agent("Support").await;
    db.forget_edits().await;
    let worker = TestWorker::start(&db, ALL).await;
    let browser = Browser::start().await;
    // It does not look every now and then, either.
    let never = "window.setInterval = () => 0";
    browser.first_of_all(never).await;
    browser.open(&format!("http://{}/", worker.admin)).await;
    browser.shows("#link", "Live").await;
    browser.shows(ROWS, "Support").await;
    browser.shows(ROWS, "synced").await;
    browser.shows(STREAM, "pass").await;
    assert!(
        !browser
            .sees(STREAM)
            .await
            .expect("syncs")
            .contains("updated")
    );

    db.psql(
        "update public.agents set system_prompt = 'You answer in haiku.' where name = 'Support'",
    )
    .await;
    browser
        .shows(&format!("{STREAM} li:first-child"), "updated")
        .await;
    let first = browser.sees(&format!("{STREAM} li:first-child")).await;
    let first = first.expect("a sync");
    assert!(
        first.contains("Support") && first.contains("change · "),
        "{first}"
    );

    // And the table, too: of one that was not there, and of one that goes.
    db.psql("insert into public.agents (name, status) values ('Front Desk', 'active')")
        .await;
    browser.shows(ROWS, "Front Desk").await;
    browser.shows("#range", "2 agents").await;
    db.psql(&format!(
        "update public.agents set status = 'disabled' where id = '{agent}'"
    ))
    .await;
    browser.shows("#rows tr:last-child", "removed").await;
    let seen = browser.sees("body").await.expect("a page");
    assert!(!seen.contains("haiku"), "{seen}");
    at_peace(browser).await;
    worker.stop().await;
}

#[tokio::test]
async fn agents_are_searched_and_filtered_and_the_address_says_how() {
    let db = TestDatabase::new().await;
    db.many_agents(60).await;
    db.agent("Support").await;
    db.agent("100% _ Harbour").await;
    let worker = TestWorker::start(&db, ALL).await;
    db.execute("update public.agents set status = 'disabled' where name in ('agent 7', 'agent 8')")
        .await;
    db.drained().await;
    let browser = page(&worker, "Healthy").await;
    browser.shows("#range", "1–50 of 62 agents").await;
    browser.shows("#states label:nth-of-type(6)", "2").await;

    browser.click("#search").await;
    browser.press("harb".chars()).await;
    browser.shows("#range", "1 agent").await;
    browser.shows(ROWS, "100% _ Harbour").await;
    browser.press("x".chars()).await;
    browser.shows("#agents-said", "No agent is like that").await;
    browser
        .run("document.querySelector('#search').select()", json!([]))
        .await;
    browser.press("AGENT".chars()).await;
    browser.shows("#range", "1–50 of 60 agents").await;
    browser.click("#states input[value=removed]").await;
    browser.shows("#range", "2 agents").await;
    browser.counts(ROWS, 2).await;

    // It can be sent to somebody.
    let address = browser.run("return location.href", json!([])).await;
    let address = address.as_str().expect("an address");
    assert!(
        address.ends_with("/#state=removed&search=AGENT"),
        "{address}"
    );
    browser.open("about:blank").await;
    browser.open(address).await;
    browser.shows("#range", "2 agents").await;
    let searched = browser
        .run("return document.querySelector('#search').value", json!([]))
        .await;
    assert_eq!(searched, "AGENT");
    at_peace(browser).await;
    worker.stop().await;
}

#[tokio::test]
async fn an_agent_that_fails_is_shown_with_its_error_until_it_is_corrected() {
    let db = TestDatabase::new().await;
    db.agent("Healthy one").await;
    db.agent("Support").await;
    let worker = TestWorker::start(&db, ALL).await;
    let browser = page(&worker, "Healthy").await;
    browser.hides("#todo").await;
    db.psql("update public.agents set sampling_params = '[\"a secret\"]' where name = 'Support'")
        .await;
    let error = "agents.sampling_params is an array";
    browser.shows(STREAM, error).await;
    browser.shows("#rows tr:first-child", "failed").await;
    browser.shows("#rows tr:first-child .why", error).await;
    browser.shows(HEALTH, "Degraded").await;
    browser.shows("#todo", "1 agent failed").await;
    browser.shows("#todo .trouble", "Support").await;
    browser.shows("#todo .trouble", error).await;
    browser.shows("#reasons", "1 agent fails").await;
    let title = browser.run("return document.title", json!([])).await;
    assert_eq!(title, "Degraded · agent-sync");

    db.psql("update public.agents set sampling_params = null where name = 'Support'")
        .await;
    browser.shows(HEALTH, "Healthy").await;
    browser.hides("#todo").await;
    browser.shows("#rows tr:first-child", "Support").await;
    browser.shows("#rows tr:first-child", "synced").await;
    let seen = browser.sees("body").await.expect("a page");
    assert!(!seen.contains("a secret"), "{seen}");
    at_peace(browser).await;
    worker.stop().await;
}

#[tokio::test]
async fn what_is_to_be_done_is_said_with_the_command() {
    let db = TestDatabase::new().await;
    db.many_agents(30).await;
    let worker = TestWorker::start(&db, ALL).await;
    // It looks after them at the next resync only.
    db.execute(
        "alter table public.mcp_tools disable trigger agent_sync_update;
         update public.agents set status = 'disabled' where name < 'agent 25'",
    )
    .await;
    let browser = page(&worker, "Degraded").await;
    browser.shows("#todo", "agents held").await;
    browser
        .shows(
            "#todo .command:has(+ ul li)",
            "agent-sync sync --allow-removals",
        )
        .await;
    browser.shows("#todo", "1 trigger missing").await;
    browser.shows("#todo", "update on mcp_tools").await;
    browser.shows("#todo .command", "agent-sync migrate").await;
    browser.shows("#facts", "1 of 20 missing").await;
    // What is wrong for the same reason is said once.
    let held = browser.count("#todo .trouble > li").await;
    assert_eq!(held, 1);
    browser.click("#states input[value=held]").await;
    browser.shows("#rows tr:last-child", "held").await;
    browser.shows("#rows tr:first-child", "held").await;
    at_peace(browser).await;
    worker.stop().await;
}

/// Nothing of the application's is ever markup, wherever it is shown.
#[tokio::test]
async fn a_name_that_looks_like_markup_stays_text() {
    if !Role::is_first_run() {
        return;
    }
    let db = TestDatabase::new().await;
    let name = "<img src=x onerror=document.title=1><script>document.title=2</script>&amp;";
    let agent = db.agent(name).await;
    let worker = TestWorker::start(&db, ALL).await;
    let browser = page(&worker, "Healthy").await;
    browser.shows(ROWS, name).await;
    // An error that quotes it, and one that is longer than anybody reads.
    db.execute(&format!(
        "update agent_sync.ledger set state = 'failed', attempts = 3, error = '{name}' || repeat(' and so on', 90) where agent_id = '{agent}'"
    ))
    .await;
    browser.shows("#todo .trouble strong", name).await;
    browser.shows("#todo .error", name).await;
    let shown = "return document.querySelector('#todo .error').clientHeight";
    let short = browser.run(shown, json!([])).await.as_u64();
    browser.click("#todo .trouble button").await;
    let whole = browser.run(shown, json!([])).await.as_u64();
    assert!(short < whole, "{short:?} {whole:?}");
    let made = "return [document.querySelectorAll('img, script:not(:last-of-type)').length, document.title]";
    assert_eq!(
        browser.run(made, json!([])).await,
        json!([0, "Degraded · agent-sync"])
    );
    // And it could not be if somebody tried.
    let tried = "try { document.querySelector('#word').innerHTML = '<b>x</b>'; return 'made' } catch (e) { return e.name }";
    assert_eq!(browser.run(tried, json!([])).await, "TypeError");
    let complaints = browser.complaints().await;
    assert!(
        complaints.iter().all(|said| said.contains("TrustedHTML")),
        "{complaints:?}"
    );
    browser.close().await;
    worker.stop().await;
}

#[tokio::test]
async fn five_thousand_agents_are_no_more_on_the_page_than_fifty() {
    let db = TestDatabase::new().await;
    db.many_agents(5000).await;
    let worker = TestWorker::start(&db, ALL).await;
    let browser = page(&worker, "Healthy").await;
    browser.shows("#range", "1–50 of 5,000 agents").await;
    browser.shows("#states label:first-of-type", "5,000").await;
    let elements = browser.count("*").await;
    assert_eq!(browser.count(ROWS).await, 50);
    let first = browser.sees("#rows .name").await;
    assert!(first.is_some());

    for page in ["51–100", "101–150"] {
        browser.click("#next").await;
        browser
            .shows("#range", &format!("{page} of 5,000 agents"))
            .await;
    }
    assert_eq!(browser.count(ROWS).await, 50);
    browser.click("#previous").await;
    browser.shows("#range", "51–100").await;
    browser.click("#previous").await;
    browser.shows("#range", "1–50").await;
    assert_eq!(browser.sees("#rows .name").await, first);
    assert_eq!(
        browser
            .run(
                "return document.querySelector('#previous').disabled",
                json!([])
            )
            .await,
        true
    );

    // All of them change, at first one by one.
    for n in 1..=70 {
        db.execute(&format!(
            "update public.agents set description = 'd' where name = 'agent {n}'"
        ))
        .await;
    }
    db.execute("update public.agents set description = 'e'")
        .await;
    db.drained().await;
    browser.shows(STREAM, "updated").await;
    db.execute("update public.agents set description = 'f' where name = 'agent 4321'")
        .await;
    browser
        .shows(&format!("{STREAM} li:first-child"), "agent 4321")
        .await;
    assert!(browser.count(&format!("{STREAM} li")).await <= 60);
    assert_eq!(browser.count(ROWS).await, 50);
    let more = browser.count("*").await;
    assert!(more < elements + 600, "{elements}, then {more}");
    at_peace(browser).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_connection_that_is_lost_is_said_and_heals_by_itself() {
    let db = TestDatabase::new().await;
    db.agent("Support").await;
    let mut running = Running::serve(&db, ALL);
    let admin = running.admin().await.to_string();
    let browser = Browser::start().await;
    browser.open(&format!("http://{admin}/")).await;
    browser.shows(HEALTH, "Healthy").await;
    browser.shows("#link", "Live").await;
    browser.hides("#banner").await;
    browser.shows(ROWS, "Support").await;

    running.signal("-KILL");
    running.ended().await;
    browser.shows("#banner", "agent-sync does not answer").await;
    browser.shows("#link", "Connection lost").await;
    browser.shows(HEALTH, "No answer").await;
    // What was there is shown still, and as what it is.
    browser.shows(ROWS, "Support").await;
    assert_eq!(browser.count("#table.stale").await, 1);
    let announced = browser
        .run(
            "return document.querySelector('#announcer').textContent",
            json!([]),
        )
        .await;
    assert!(
        announced
            .as_str()
            .is_some_and(|said| said.contains("No answer") || said.contains("lost")),
        "{announced}"
    );

    let at_the_same = [
        ("DATABASE_URL", db.url.as_str()),
        FREE_PORTS[0],
        (ADMIN_ADDR, &admin),
    ];
    let running = Running::start(&[], &[&at_the_same, ALL].concat());
    running.admin().await;
    browser.hides("#banner").await;
    browser.shows("#link", "Live").await;
    browser.shows(HEALTH, "Healthy").await;
    db.psql("update public.agents set description = 'again'")
        .await;
    browser
        .shows(&format!("{STREAM} li:first-child"), "updated")
        .await;
    let complaints = browser.complaints().await;
    assert!(
        complaints
            .iter()
            .all(|said| said.contains("ERR_CONNECTION_REFUSED")
                || said.contains("ERR_INCOMPLETE_CHUNKED_ENCODING")
                || said.contains("ERR_CONNECTION_RESET")
                || said.contains("ERR_EMPTY_RESPONSE")),
        "{complaints:?}"
    );
    browser.close().await;
}

#[tokio::test]
async fn a_database_that_is_away_is_said_and_what_was_there_stays() {
    let db = TestDatabase::new().await;
    db.agent("Support").await;
    let proxy = Proxy::before(db.port()).await;
    let url = db.url_by_way_of(proxy.address);
    let worker = TestWorker::start_with(&[("DATABASE_URL", &url), (SCOPE, "all")]).await;
    worker.ready().await;
    let browser = page(&worker, "Healthy").await;
    browser.shows(ROWS, "Support").await;
    drop(proxy);
    browser.shows(HEALTH, "Broken").await;
    browser.shows("#facts", "Away").await;
    browser.shows("#link", "Live").await;
    browser.click("#states input[value=failed]").await;
    browser
        .shows("#agents-said", "The agents cannot be listed")
        .await;
    browser.shows(ROWS, "Support").await;
    let complaints = browser.complaints().await;
    assert!(
        complaints.iter().all(|said| said.contains("503")),
        "{complaints:?}"
    );
    browser.close().await;
    worker.stop().await;
}

#[tokio::test]
async fn the_stream_waits_for_a_reader() {
    if !Role::is_first_run() {
        return;
    }
    let db = TestDatabase::new().await;
    db.agent("Support").await;
    let worker = TestWorker::start(&db, ALL).await;
    let browser = page(&worker, "Healthy").await;
    browser.click("#pause").await;
    browser.shows("#link", "Paused").await;
    db.execute("update public.agents set description = 'one'")
        .await;
    browser.shows("#pause", "Go on (1 new)").await;
    db.execute("update public.agents set description = 'two'")
        .await;
    browser.shows("#pause", "Go on (2 new)").await;
    assert!(
        !browser
            .sees(STREAM)
            .await
            .unwrap_or_default()
            .contains("updated")
    );
    browser.click("#pause").await;
    browser
        .shows(&format!("{STREAM} li:nth-child(2)"), "updated")
        .await;
    browser.shows("#pause", "Pause").await;
    at_peace(browser).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_keyboard_is_enough_and_the_focus_is_seen() {
    if !Role::is_first_run() {
        return;
    }
    let db = TestDatabase::new().await;
    db.many_agents(60).await;
    let worker = TestWorker::start(&db, ALL).await;
    let browser = page(&worker, "Healthy").await;
    browser.shows("#range", "of 60").await;
    // Past everything that comes before.
    browser.press([TAB]).await;
    assert_eq!(
        browser.sees(":focus").await.as_deref(),
        Some("Skip to the agents")
    );
    browser.press([ENTER, TAB]).await;
    let focus = || {
        browser.run(
            "return document.activeElement.id || document.activeElement.value || document.activeElement.outerHTML.slice(0, 200)",
            json!([]),
        )
    };
    assert_eq!(focus().await, "search");
    browser.press("agent 6".chars()).await;
    browser.shows("#range", "2 agents").await;
    browser.press([TAB, RIGHT]).await;
    assert_eq!(focus().await, "failed");
    browser.shows("#agents-said", "No agent is like that").await;
    let outline = "const style = getComputedStyle(document.activeElement.nextElementSibling);
        return style.outlineStyle + style.outlineWidth";
    assert_eq!(browser.run(outline, json!([])).await, "solid2px");
    browser.press([SHIFT, TAB]).await;
    browser
        .run("document.activeElement.select()", json!([]))
        .await;
    browser.press("agent".chars()).await;
    browser.press([TAB, RIGHT, RIGHT, RIGHT, RIGHT]).await;
    assert_eq!(focus().await, "removed");
    browser.press([RIGHT]).await;
    browser.shows("#range", "1–50 of 60").await;
    browser.press([TAB]).await;
    assert_eq!(focus().await, "next");
    browser.press([ENTER]).await;
    browser.shows("#range", "51–60 of 60").await;
    // A button that leads nowhere any more does not take the focus with it.
    assert_eq!(focus().await, "previous");
    browser.press([ENTER]).await;
    browser.shows("#range", "1–50 of 60").await;
    assert_eq!(focus().await, "next");
    // The way back, as far as the stream, which scrolls.
    browser.press([SHIFT, TAB, SHIFT, TAB, SHIFT, TAB]).await;
    assert_eq!(focus().await, "stream");
    browser.press([SHIFT, TAB, ENTER]).await;
    browser.shows("#pause", "Go on").await;
    at_peace(browser).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_screen_reader_is_told_what_everything_is() {
    if !Role::is_first_run() {
        return;
    }
    let db = TestDatabase::new().await;
    db.agent("Support").await;
    db.execute("update public.agents set sampling_params = '7'")
        .await;
    let worker = TestWorker::start(&db, ALL).await;
    let browser = page(&worker, "Degraded").await;
    browser.shows("#todo", "Support").await;
    browser.shows(ROWS, "Support").await;
    let one = async |selector: &str| browser.told(selector).await.remove(0);
    let told = |role: &str, name: &str| (role.to_owned(), name.to_owned());
    assert_eq!(one("header").await.0, "banner");
    assert_eq!(one("main").await.0, "main");
    assert_eq!(one("footer").await.0, "contentinfo");
    assert_eq!(one("#agents").await, told("region", "Agents"));
    assert_eq!(one("#health").await, told("region", "Health"));
    assert_eq!(one("#filters").await.0, "search");
    assert_eq!(
        one("#search").await,
        told("searchbox", "Search by name or id")
    );
    assert_eq!(one("#states").await, told("group", "State"));
    assert_eq!(
        one("#states input[value=failed]").await,
        told("radio", "Failed 1")
    );
    assert_eq!(one("#table").await, told("table", "Agents"));
    assert_eq!(one("#rows tr").await.0, "row");
    assert_eq!(one("#rows th").await.0, "rowheader");
    assert_eq!(
        one("#table thead th:nth-child(3)").await,
        told("columnheader", "Last sync")
    );
    let (role, said) = one("#delay").await;
    assert_eq!(role, "image");
    assert!(
        said.contains("From edit to assistant") && said.contains("last hour"),
        "{said}"
    );
    assert_eq!(one("#announcer").await.0, "status");
    // Whatever can be worked with has a name; headings leave no level out.
    for (role, name) in browser
        .told("button, input, a, summary, [tabindex='0']")
        .await
    {
        assert!(
            role == "none" || !name.is_empty(),
            "a {role} without a name"
        );
    }
    let levels = "return [...document.querySelectorAll('h1, h2, h3')].map((h) => +h.tagName[1])";
    let levels = browser.run(levels, json!([])).await;
    let levels: Vec<u64> = levels
        .as_array()
        .expect("levels")
        .iter()
        .filter_map(Value::as_u64)
        .collect();
    assert_eq!(levels.first(), Some(&1));
    assert!(
        levels.windows(2).all(|two| two[1] <= two[0] + 1),
        "{levels:?}"
    );
    // One place speaks by itself, and it is not the stream.
    assert_eq!(
        browser
            .count("[aria-live], [role=status], [role=log], [role=alert]")
            .await,
        1
    );
    at_peace(browser).await;
    worker.stop().await;
}

/// The least contrast of a text with what is behind it, and of which text.
const CONTRAST: &str = "
    const parse = (color) => color.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map((c) => c / 255).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
      .reduce((sum, c, n) => sum + c * [0.2126, 0.7152, 0.0722][n], 0);
    let least = [99, ''];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const node = walker.currentNode.parentElement;
      if (!walker.currentNode.data.trim() || !node.checkVisibility() || node.closest('.unseen, script, noscript, option, :disabled')) continue;
      let behind = node;
      while (behind && (parse(getComputedStyle(behind).backgroundColor)[3] ?? 1) === 0) behind = behind.parentElement;
      const style = getComputedStyle(node);
      const colors = [node.closest('svg') ? style.fill : style.color, behind ? getComputedStyle(behind).backgroundColor : 'rgb(255, 255, 255)'];
      const [high, low] = colors.map(parse).map(light).sort((a, b) => b - a);
      const contrast = (high + 0.05) / (low + 0.05);
      if (contrast < least[0]) least = [contrast, walker.currentNode.data.trim(), ...colors];
    }
    return least";

#[tokio::test]
async fn it_is_readable_in_the_light_in_the_dark_and_on_a_phone() {
    if !Role::is_first_run() {
        return;
    }
    let db = TestDatabase::new().await;
    db.many_agents(20).await;
    let worker = TestWorker::start(&db, ALL).await;
    db.execute(
        "update public.agents set sampling_params = '7' where name = 'agent 3';
         update public.agents set status = 'disabled' where name < 'agent 3'",
    )
    .await;
    let browser = page(&worker, "Degraded").await;
    browser.shows("#todo", "failed").await;
    browser.shows("#todo", "held").await;
    browser.shows(ROWS, "failed").await;
    for scheme in ["light", "dark"] {
        browser.prefer("prefers-color-scheme", scheme).await;
        let least = browser.run(CONTRAST, json!([])).await;
        assert!(
            least[0].as_f64().is_some_and(|least| least >= 4.5),
            "{scheme}: {least}"
        );
    }
    for width in [320, 390, 768, 1280, 2560] {
        browser.resize(width, 844).await;
        let overflow = "return document.documentElement.scrollWidth - innerWidth";
        assert_eq!(browser.run(overflow, json!([])).await, 0, "{width}");
    }
    browser.resize(390, 844).await;
    // A row is a block there, and still a row.
    assert_eq!(browser.told("#rows tr, #rows th").await[0].0, "row");
    browser.prefer("prefers-reduced-motion", "reduce").await;
    db.execute("update public.agents set description = 'moved' where name = 'agent 4'")
        .await;
    browser.shows(STREAM, "updated").await;
    let moving = "return document.getAnimations().length";
    assert_eq!(browser.run(moving, json!([])).await, 0);
    at_peace(browser).await;
    worker.stop().await;
}

#[tokio::test]
async fn the_file_comes_with_its_own_policy_and_says_where_the_rest_is() {
    if !Role::is_first_run() {
        return;
    }
    let worker = TestWorker::start_with(&[]).await;
    let (status, head, body) = exchange(
        worker.admin,
        "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    )
    .await;
    assert_eq!(status, 200);
    for header in [
        "content-type: text/html; charset=utf-8",
        "cache-control: no-store",
        "x-content-type-options: nosniff",
        "referrer-policy: no-referrer",
    ] {
        assert!(head.contains(header), "{header}: {head}");
    }
    let policy = head
        .lines()
        .find(|line| line.starts_with("content-security-policy: "))
        .expect("a policy");
    for part in [
        "default-src 'none';",
        "script-src 'sha256-",
        "style-src 'sha256-",
        "connect-src 'self';",
        "base-uri 'none';",
        "form-action 'none';",
        "frame-ancestors 'none';",
    ] {
        assert!(policy.contains(part), "{part}: {policy}");
    }
    assert!(
        !policy.contains("unsafe") && !policy.contains('*'),
        "{policy}"
    );
    let (_, without) = body
        .split_once("<noscript>")
        .expect("a word for who has no JavaScript");
    let (without, _) = without.split_once("</noscript>").expect("its end");
    assert!(
        without.contains("href=\"status\"") && without.contains("href=\"agents\""),
        "{without}"
    );

    // Without a database there is nothing to show, and that is said.
    let browser = page(&worker, "Healthy").await;
    browser.shows("#facts", "nothing is synced").await;
    browser
        .shows("#agents-said", "No agent has an assistant yet")
        .await;
    at_peace(browser).await;
    worker.stop().await;
}
