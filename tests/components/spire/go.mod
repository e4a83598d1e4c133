// SPIRE, as the tests build it. Only the version is said here: it is built in
// a copy of the module's own folder, by its own go.mod and go.sum.
module components/spire

go 1.25.3

require github.com/spiffe/spire v1.13.3
