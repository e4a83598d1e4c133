// The CustomResourceDefinitions of Istio's API, which the tests copy from its
// module: nothing of it is built.
module components/istio

go 1.24.0

require istio.io/api v1.31.1
