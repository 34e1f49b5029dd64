//! What finding a recipient's pool costs with many routes: `cargo run --release --example routes`.

use std::hint::black_box;
use std::time::Instant;

use postlane::route::{Domain, Facts, Routes, Rule};

fn main() {
    println!("{:>7}  {:>9}  {:>12}  {:>9}", "routes", "exact", "below", "no match");
    for rules in [1, 10, 100, 1_000, 10_000, 100_000] {
        let routes = Routes::new((0..rules).map(rule).collect(), 0);
        let exact = cost(&routes, |n| format!("customer{}.example", n % rules / 2 * 2));
        let below = cost(&routes, |n| format!("mail.eu.customer{}.example", n % rules / 2 * 2 + 1));
        let none = cost(&routes, |n| format!("mx{n}.another-domain.example"));
        println!("{rules:>7}  {exact:>6.0} ns  {below:>9.0} ns  {none:>6.0} ns");
    }
}

/// Every second one is about what is below its domain.
fn rule(n: usize) -> Rule {
    let star = if n.is_multiple_of(2) { "" } else { "*." };
    let domain = Domain::from_text(&format!("{star}customer{n}.example"));
    Rule { recipient_domains: vec![domain], pool: (n % 60) as u16, ..Rule::default() }
}

/// Nanoseconds for a message with one recipient: looked at once, its recipient once.
fn cost(routes: &Routes, domain: impl Fn(usize) -> String) -> f64 {
    let domains: Vec<String> = (0..100_003).map(domain).collect();
    let facts = Facts { sender_domain: b"sender.example", listener: Some("apps"), ..Facts::default() };
    let rounds = 10;
    let start = Instant::now();
    for domain in domains.iter().cycle().take(rounds * domains.len()) {
        let message = routes.message(black_box(&facts));
        black_box(routes.pick(message, domain.as_bytes(), &facts));
    }
    start.elapsed().as_nanos() as f64 / (rounds * domains.len()) as f64
}
