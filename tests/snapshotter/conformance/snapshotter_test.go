// containerd's own conformance suite for snapshotters, against the command `uimgacc snapshotter`.
//
// It is built and run by test_conformance.py, with UIMGACC_CONFORMANCE=1.
package conformance

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/containerd/v2/core/snapshots/testsuite"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

const patience = 60 * time.Second

// The suite calls it overlayfs: that is what our mounts are, and by this name it leaves out what
// overlayfs cannot do.
func TestConformance(t *testing.T) {
	testsuite.SnapshotterSuite(t, "overlayfs", start)
}

// start runs a snapshotter over an empty folder, and gives it out through containerd's own client.
func start(ctx context.Context, root string) (snapshots.Snapshotter, func() error, error) {
	// Beside the root: the suite looks at what is in it.
	socket := filepath.Join(filepath.Dir(root), "s.sock")
	command := exec.Command(os.Getenv("UIMGACC"), "snapshotter", "--root", root, "--address", socket)
	command.Stderr = os.Stderr
	if err := command.Start(); err != nil {
		return nil, nil, err
	}
	if err := accepts(socket); err != nil {
		return nil, nil, errors.Join(err, stop(command))
	}
	connection, err := grpc.NewClient(
		"unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, nil, errors.Join(err, stop(command))
	}
	client := proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(connection), "uimgacc")
	end := func() error {
		return errors.Join(client.(snapshots.Cleaner).Cleanup(ctx), connection.Close(), stop(command))
	}
	return client, end, nil
}

// accepts returns when the socket accepts connections.
func accepts(socket string) error {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if connection, err := net.Dial("unix", socket); err == nil {
			return connection.Close()
		}
	}
	return fmt.Errorf("%s never accepted", socket)
}

// stop ends the process as an upgrade does; its exit status must be 0.
func stop(command *exec.Cmd) error {
	killer := time.AfterFunc(patience, func() { command.Process.Kill() })
	defer killer.Stop()
	return errors.Join(command.Process.Signal(syscall.SIGTERM), command.Wait())
}
