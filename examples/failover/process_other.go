//go:build !unix

package main

import (
	"errors"
	"os/exec"
)

const canFreeze = false

func endWithParent(*exec.Cmd) {}

func freeze(*process) error { return errors.ErrUnsupported }
func thaw(*process) error   { return errors.ErrUnsupported }
