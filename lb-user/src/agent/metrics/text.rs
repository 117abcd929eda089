//! The text format that Prometheus had before OpenMetrics (version 0.0.4), for who
//! does not ask for OpenMetrics: it names counters by their samples, and knows
//! neither units nor an end.

/// Written from the OpenMetrics text of [`prometheus_client`], in which the lines
/// `HELP` and `TYPE` of a family follow each other.
pub(super) fn plain(open: &str) -> String {
    let mut plain = String::with_capacity(open.len());
    let mut lines = open.lines().peekable();
    while let Some(line) = lines.next() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        if let Some((name, help)) = described(line, "# HELP ")
            && let Some((_, kind)) = lines.peek().and_then(|next| described(next, "# TYPE "))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                _ => ("", kind),
            };
            lines.next();
            for part in ["# HELP ", name, suffix, " ", help, "\n# TYPE ", name, suffix, " ", kind] {
                plain.push_str(part);
            }
        } else {
            plain.push_str(line);
        }
        plain.push('\n');
    }
    plain
}

/// Name and rest of a line that describes a family.
fn described<'l>(line: &'l str, what: &str) -> Option<(&'l str, &'l str)> {
    line.strip_prefix(what)?.split_once(' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_named_by_their_samples() {
        let open = "# HELP lb_drops dropped\n# TYPE lb_drops counter\n\
                    lb_drops_total{reason=\"# EOF\"} 1\n\
                    # HELP lb_build version\n# TYPE lb_build info\nlb_build_info{version=\"1\"} 1\n\
                    # HELP lb_flows live\n# TYPE lb_flows gauge\n# UNIT lb_flows flows\n\
                    lb_flows 2\n# EOF\n";
        let expected = "# HELP lb_drops_total dropped\n# TYPE lb_drops_total counter\n\
                        lb_drops_total{reason=\"# EOF\"} 1\n\
                        # HELP lb_build_info version\n# TYPE lb_build_info gauge\n\
                        lb_build_info{version=\"1\"} 1\n\
                        # HELP lb_flows live\n# TYPE lb_flows gauge\nlb_flows 2\n";
        assert_eq!(plain(open), expected);
    }
}
