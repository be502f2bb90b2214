//! What libFuzzer says of its work.

/// The last figures of a run.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    /// Inputs that were tried.
    pub(super) runs: u64,
    /// Edges of the code that were reached, of all that the program has.
    pub(super) edges: u64,
    /// Edges, each with how often it was passed, in powers of two.
    pub(super) features: u64,
    /// Inputs that reach something that others do not.
    pub(super) corpus: u64,
    /// Why it stopped before its time.
    why: Option<String>,
}

impl Said {
    /// Reads the lines `#RUNS  EVENT cov: EDGES ft: FEATURES corp: INPUTS/BYTES …`, and what stands out else.
    pub(super) fn read(text: &str) -> Self {
        let mut said = Self::default();
        for line in text.lines() {
            if let Some(status) = line.strip_prefix('#') {
                said.take(status);
            } else if let Some((_, what)) = line.split_once("ERROR: libFuzzer: ") {
                said.why.get_or_insert_with(|| what.to_owned());
            }
        }
        // A panic says more than that there was one.
        let mut lines = text.lines();
        if lines.by_ref().any(|line| line.contains(" panicked at "))
            && let Some(message) = lines.next()
        {
            said.why = Some(format!("panic: {}", message.trim()));
        }
        said
    }

    fn take(&mut self, status: &str) {
        let words: Vec<&str> = status.split_whitespace().collect();
        let after = |name: &str| {
            let place = words.iter().position(|word| *word == name)?;
            words.get(place + 1)?.split('/').next()?.parse().ok()
        };
        let Some(runs) = words.first().and_then(|runs| runs.parse().ok()) else {
            return;
        };
        self.runs = runs;
        self.edges = after("cov:").unwrap_or(self.edges);
        self.features = after("ft:").unwrap_or(self.features);
        self.corpus = after("corp:").unwrap_or(self.corpus);
    }

    /// Why it stopped before its time.
    pub(super) fn why(&self) -> &str {
        self.why.as_deref().unwrap_or("it ended")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_figures_count_and_a_panic_is_quoted() {
        let text = "INFO: Seed: 1\n\
            #2\tINITED cov: 74 ft: 75 corp: 1/1b exec/s: 0 rss: 27Mb\n\
            #523620\tNEW    cov: 1181 ft: 2240 corp: 90/1381b lim: 4 exec/s: 9 rss: 27Mb L: 4/4 MS: 1 A-\n\
            thread '<unnamed>' (1) panicked at a.rs:1:2:\nit is so\n\
            ==1== ERROR: libFuzzer: deadly signal\n";
        let said = Said::read(text);
        let figures = (said.runs, said.edges, said.features, said.corpus);
        assert_eq!(figures, (523_620, 1181, 2240, 90));
        assert_eq!(said.why(), "panic: it is so");
        let hang = Said::read("==1== ERROR: libFuzzer: timeout after 20 seconds\n");
        assert_eq!(hang.why(), "timeout after 20 seconds");
    }
}
