//! The report as one page that needs nothing else.

use maud::{DOCTYPE, Markup, PreEscaped, html};
use spapr_lab::benchmark::results::Results;

use super::compare::{self, Ratio};
use super::{defences, names, sections, targets, text};

const STYLE: &str = include_str!("page.css");

/// The page.
pub(super) fn of(results: &Results) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "spapr-vmm: what hypercalls cost" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "What hypercalls cost under spapr-vmm, beside QEMU" }
                (facts(results))
                (section("The whole machine", &sections::whole(results)))
                (defences(results))
                (targets(results))
                (section("At a glance", &html! { (sections::overview(results)) (sections::profile(results)) }))
                (section("Many entries at once", &sections::bulk(results)))
                (section("How costs grow", &sections::growth(results)))
                (section("Spread", &sections::distributions(results)))
                h2 { "All rows" }
                p .facts { (text::WARM_UP) }
                (rows(results))
                (omitted(results))
            }
        }
    }
}

/// Plots with their heading; nothing when there are none.
fn section(title: &str, plots: &Markup) -> Markup {
    html! {
        @if plots.0.contains("<figure>") {
            h2 { (title) }
            div .plots { (plots) }
        }
    }
}

fn facts(results: &Results) -> Markup {
    let facts = &results.facts;
    html! {
        p .facts {
            (facts.cpu) ", Linux " (facts.kernel) ", pages of " (facts.page_bytes >> 10) " KiB" (text::guest_kernel(facts)) "; "
            (text::peers(facts)) "; "
            "one run on one host, guests of " (text::value(facts.guest_bytes, spapr_lab::benchmark::row::Unit::Bytes)) ". "
            @if facts.counts_instructions {
                "The host is emulated, and its clock counts instructions: costs are instructions that \
                 guest, kernel and VMM execute together. What an exit, a cache miss or an \
                 invalidation of the IOMMU costs on real POWER beyond its instructions is not in them."
            } @else {
                "Costs are nanoseconds."
            }
            (text::packages(facts))
        }
    }
}

fn targets(results: &Results) -> Markup {
    let targets = targets::judge(results);
    let held = targets.iter().filter(|target| target.holds()).count();
    html! {
        @if !targets.is_empty() {
            h2 { "Targets: " (held) " of " (targets.len()) " hold" }
            div .scroll {
                table {
                    thead { tr { th { "what" } th { "is" } th { "at most" } th { "" } } }
                    tbody {
                        @for target in &targets {
                            @let (is, at_most) = text::target(target);
                            tr {
                                td { (target.what) }
                                td { (is) }
                                td { (at_most) }
                                @if target.holds() {
                                    td .holds { "✓ " (text::verdict(target)) }
                                } @else {
                                    td .missed { "✗ " (text::verdict(target)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The proof that the Linux guests that are compared are equal.
fn defences(results: &Results) -> Markup {
    let told = defences::told(results);
    html! {
        @if !told.is_empty() {
            h2 { "Defences of the Linux guests" }
            p .facts { (text::DEFENCES) }
            ol { @for told in &told { li { (told.who) } } }
            div .scroll {
                table {
                    thead { tr { th { "file" } @for number in 1..=told.len() { th .left { (number) } } } }
                    tbody {
                        @for file in defences::files(&told) {
                            tr {
                                td { (file) }
                                @for told in &told {
                                    td .left { (told.defences.0.get(file).map_or("–", String::as_str)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn rows(results: &Results) -> Markup {
    let counts = results.facts.counts_instructions;
    html! {
        div .scroll {
            table {
                thead {
                    tr {
                        th { "what" } th { "n" } th .left { "mode" } th { "median" } th { "99 %" }
                        th { "least" } th { "largest" } th { "samples" } th { "of" }
                        th { "× QEMU" } th { "× QEMU, lists in user space" } th { "× floor" }
                    }
                }
                tbody {
                    @for compared in compare::all(results) {
                        @let row = compared.row;
                        tr {
                            td { (names::title(&row.name)) }
                            td { (row.n) }
                            td .left { span .swatch .(sections::class(compared.peer)) {} (compared.peer.name()) }
                            @for value in [row.median(), row.quantile(99), row.quantile(0), row.quantile(100)] {
                                td { (text::value(value, row.unit)) }
                            }
                            td { (row.samples) }
                            td { (text::unit(row.unit, counts)) }
                            (ratio(&compared.qemu))
                            (ratio(&compared.safe))
                            (ratio(&compared.floor))
                        }
                    }
                }
            }
        }
    }
}

fn ratio(ratio: &Ratio) -> Markup {
    let text = text::ratio(ratio);
    html! {
        @match ratio {
            Ratio::Refused(_) => td .refused { (text) },
            _ => td { (text) },
        }
    }
}

fn omitted(results: &Results) -> Markup {
    html! {
        @if !results.omitted.is_empty() {
            h2 { "Not measured" }
            ul {
                @for omission in &results.omitted {
                    li { (omission.what) ": " (omission.why) }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use spapr_lab::benchmark::results::Peer;

    use super::super::compare::tests::results;
    use super::*;

    #[test]
    fn the_page_needs_nothing_else_and_shows_refusals() {
        let mut results = results(&[
            (Peer::Auto, "exit", 1, 5_600),
            (Peer::QemuKernel, "exit", 1, 6_300),
            (Peer::Auto, "get", 1, 3_000),
            (Peer::QemuKernel, "get", 1, 3_100),
        ]);
        results.measured[3].row.digest = Some(1);
        let page = of(&results).into_string();
        assert!(
            page.contains("refused: the guests&#39; results differ")
                || page.contains("refused: the guests' results differ")
        );
        assert!(page.contains("0.889"));
        for outside in ["http", "src=", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
    }
}
