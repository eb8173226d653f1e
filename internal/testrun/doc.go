// Command testrun runs the tests of this module for make test.
//
// It builds each package's test program once, runs several packages side by side
// as plan.go says, and shows how far each one is. A package whose tests need a
// server waits until that server has been built. The last lines name every test
// that failed with the command that repeats it.
//
//	testrun [-race] [-parallel n] [-timeout d] [-lanes n] [-clusters n] [-make program] packages
package main
