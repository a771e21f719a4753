# frozen_string_literal: true

describe 'bridgeward::route' do
  let(:title) { 'promote' }
  let(:params) do
    {
      method: 'POST', body: '4KiB', allow: [{ key: ['jenkins'], networks: ['10.0.0.0/8'] }, { certname: ['ci-*'] }],
      rate: { limit: '60/m', burst: 10 }, when: [{ from: 'header:x-event', one_of: ['push'] }],
      parameters: { 'version' => { from: 'body:/version', pattern: '\\d+' } },
      run: { steps: [['/bin/echo', "it's \"{version}\"\n"]], timeout: '5m', retry: { attempts: 3 }, coalesce: true }
    }
  end

  it { is_expected.to compile.with_all_deps }

  it 'is a file of its own, staged and landed with a check' do
    is_expected.to contain_file('/etc/bridgeward/.next/routes/promote.toml').that_comes_before('Exec[bridgeward check]')
    is_expected.to contain_file('/etc/bridgeward/routes/promote.toml').with(
      owner: 'root', group: 'bridgeward', mode: '0640',
      validate_cmd: '/sbin/runuser -u bridgeward -- /usr/bin/bridgeward check --policy /etc/bridgeward/.next --as /etc/bridgeward'
    ).that_requires('Exec[bridgeward check]').that_notifies('Class[bridgeward::service]').with_content(<<~'TOML')
      # Written by Puppet.

      method = "POST"
      path = "/promote"
      body = "4KiB"

      [[allow]]
      key = ["jenkins"]
      networks = ["10.0.0.0/8"]

      [[allow]]
      certname = ["ci-*"]

      [run]
      steps = [["/bin/echo", "it's \"{version}\"\u000A"]]
      timeout = "5m"
      coalesce = true

      [run.retry]
      attempts = 3

      [rate]
      limit = "60/m"
      burst = 10

      [[when]]
      from = "header:x-event"
      one_of = ["push"]

      [parameters.version]
      from = "body:/version"
      pattern = "\\d+"
    TOML
  end

  {
    'nobody to allow' => { allow: [] },
    'a rule with an unknown condition' => { allow: [{ host: ['x'] }] },
    'a method in small letters' => { method: 'post' },
    'nothing to run' => { run: {} },
  }.each do |what, parameters|
    context "with #{what}" do
      let(:params) { super().merge(parameters) }

      it { is_expected.to compile.and_raise_error(%r{expects|unrecognized}) }
    end
  end
end
