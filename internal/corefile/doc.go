// Package corefile puts the mesh's stub domain into a cluster's DNS configuration and takes it out again: Corefiles
// (CoreDNS, NodeLocal DNSCache), the files that a Corefile imports, kube-dns's stubDomains and the servers of OpenShift's
// DNS operator. It also says which of them a cluster has.
//
// It is pure: it reads and returns text and objects. It changes nothing outside its own block, which stands between two
// comment lines, and taking the block out gives the text from before, byte for byte.
package corefile
