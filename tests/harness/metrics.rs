//! What reads the agent's metrics, and is strict about their format: the text
//! format of Prometheus, version 0.0.4.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{Error, Netns, Result, run};

/// Where a lab's agent serves metrics, see [`super::Config::http`].
pub const METRICS: &str = "127.0.0.1:9464";

/// Labels of a sample, in order.
type Labels = BTreeMap<String, String>;

/// All samples of one scrape.
#[derive(Clone, Debug)]
pub struct Metrics {
    samples: BTreeMap<(String, Labels), f64>,
}

/// Asks for a path at [`METRICS`] inside a namespace: status and body.
///
/// # Errors
/// curl's own; the answer has no status.
pub fn http_get(netns: &Netns, path: &str) -> Result<(u16, String)> {
    let mut command = netns.command("curl");
    command.args(["--silent", "--show-error", "--noproxy", "*", "--max-time", "10"]);
    command.args(["--write-out", "%{http_code}"]).arg(format!("http://{METRICS}{path}"));
    let answer = run(&mut command, Duration::from_secs(20))?.stdout;
    let (body, status) =
        answer.split_at_checked(answer.len().saturating_sub(3)).unwrap_or_default();
    let unexpected = |_| Error::Unexpected { what: "status".into(), found: answer.clone() };
    Ok((status.parse().map_err(unexpected)?, body.to_owned()))
}

impl Metrics {
    /// Reads the metrics of the agent inside a namespace.
    ///
    /// # Errors
    /// Those of [`http_get`]; the answer is another than 200, or what it brings is
    /// not in the format.
    pub fn scrape(netns: &Netns) -> Result<Self> {
        match http_get(netns, "/metrics")? {
            (200, text) => Self::parse(&text),
            (status, text) => Err(Error::Unexpected {
                what: "metrics".into(),
                found: format!("{status}: {text}"),
            }),
        }
    }

    /// A sample; its labels may be in any order.
    #[must_use]
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        self.samples.get(&(name.to_owned(), labels.collect())).copied()
    }

    /// Samples of a name, with their labels.
    pub fn all<'m>(&'m self, name: &'m str) -> impl Iterator<Item = (&'m Labels, f64)> {
        let of_name = self.samples.iter().filter(move |((one, _), _)| one == name);
        of_name.map(|((_, labels), value)| (labels, *value))
    }

    /// How many samples there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    fn parse(text: &str) -> Result<Self> {
        let (mut samples, mut families) = (BTreeMap::new(), BTreeSet::new());
        let (mut family, mut lines) = (None, text.lines());
        let wrong = |line: &str, what: &str| Error::Unexpected {
            what: format!("a line of metrics with {what}"),
            found: line.to_owned(),
        };
        while let Some(line) = lines.next() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, words) = help.split_once(' ').ok_or_else(|| wrong(line, "help"))?;
                let kind = lines.next().and_then(|next| {
                    let (again, kind) = next.strip_prefix("# TYPE ")?.split_once(' ')?;
                    (again == name && !words.is_empty()).then_some(kind)
                });
                let kind = kind.ok_or_else(|| wrong(line, "a type after it"))?;
                if !name.starts_with("lb_") || (kind == "counter") != name.ends_with("_total") {
                    return Err(wrong(line, "a good name"));
                }
                if !families.insert(name) {
                    return Err(wrong(line, "a family that is new"));
                }
                family = Some((name, kind));
                continue;
            }
            let (name, labels, value) = sample(line).ok_or_else(|| wrong(line, "a sample"))?;
            let belongs = family.is_some_and(|(family, kind)| match kind {
                "histogram" => ["_sum", "_count", "_bucket"]
                    .iter()
                    .any(|suffix| name.strip_suffix(suffix) == Some(family)),
                "counter" | "gauge" => name == family,
                _ => false,
            });
            if !belongs {
                return Err(wrong(line, "a family of its own"));
            }
            if samples.insert((name.to_owned(), labels), value).is_some() {
                return Err(wrong(line, "labels that are new"));
            }
        }
        Ok(Self { samples })
    }
}

/// Name, labels and value of a line.
fn sample(line: &str) -> Option<(&str, Labels, f64)> {
    let (series, value) = line.rsplit_once(' ')?;
    let value: f64 = value.parse().ok().filter(|value: &f64| *value >= 0.0)?;
    let (name, mut rest) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}')?),
        None => (series, ""),
    };
    let mut labels = Labels::new();
    while !rest.is_empty() {
        let (key, after) = rest.split_once("=\"")?;
        // Names of the configuration have nothing to escape.
        let (text, after) = after.split_once('"')?;
        let named =
            !key.is_empty() && key.bytes().all(|one| one.is_ascii_lowercase() || one == b'_');
        if !named || text.contains('\\') || labels.insert(key.into(), text.into()).is_some() {
            return None;
        }
        rest = match after.strip_prefix(',') {
            Some(more) if !more.is_empty() => more,
            Some(_) => return None,
            None if after.is_empty() => after,
            None => return None,
        };
    }
    let named = name.bytes().all(|one| one.is_ascii_lowercase() || one == b'_');
    named.then_some((name, labels, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# HELP lb_flows live\n# TYPE lb_flows gauge\nlb_flows 2\n\
                        # HELP lb_drops_total dropped\n# TYPE lb_drops_total counter\n\
                        lb_drops_total{reason=\"a\",to=\"b\"} 1\nlb_drops_total{reason=\"c\"} 0.5\n";

    #[test]
    fn samples_are_found_by_name_and_labels() {
        let metrics = Metrics::parse(GOOD).unwrap();
        assert_eq!(metrics.len(), 3);
        assert_eq!(metrics.get("lb_flows", &[]), Some(2.0));
        assert_eq!(metrics.get("lb_drops_total", &[("to", "b"), ("reason", "a")]), Some(1.0));
        assert_eq!(metrics.get("lb_drops_total", &[]), None);
        assert_eq!(metrics.all("lb_drops_total").count(), 2);
    }

    #[test]
    fn what_breaks_a_rule_is_refused() {
        for (good, bad) in [
            ("lb_flows 2", "lb_flows{} many"),
            ("lb_flows 2", "lb_other 2"),
            ("lb_flows 2", "lb_flows 2\nlb_flows 3"),
            ("# TYPE lb_flows gauge", "# TYPE lb_flow gauge"),
            ("# TYPE lb_flows gauge", "# TYPE lb_flows counter"),
            ("reason=\"c\"", "reason=\"a\",to=\"b\""),
            ("reason=\"c\"", "reason=\"c\","),
            ("reason=\"c\"", "reason=c"),
            ("# HELP lb_drops_total dropped\n", ""),
        ] {
            assert!(Metrics::parse(&GOOD.replace(good, bad)).is_err(), "{bad}");
        }
    }
}
