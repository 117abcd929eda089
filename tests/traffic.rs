//! Real clients and servers in namespaces.

mod topology;
